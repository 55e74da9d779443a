"""Sources: what a person may name, in a fixed order, and the text of every refusal."""

import gzip
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_gpt_kit.data.documents import Piece
from lit_gpt_kit.data.sources import BuiltinSource, FileSource, read_pieces, resolve_sources
from lit_gpt_kit.errors import InputError, MissingFileError
from tests.data.conftest import WebServer

FORMATS = ".txt, .md, .py, .jsonl, .json, .csv, .tsv, .parquet (each also .gz or .zst)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that are text and files that are not."""
    files = {
        "b.txt": "b",
        "a.md": "a",
        "deep/er/c.jsonl.gz": gzip.compress(b'{"text": "c"}'),
        "deep/d.txt": "d",
        "empty.txt": "",
        "picture.png": "p",
        "deep/data.bin": "x",
    }
    for name, content in files.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / "corpus"


def names(sources: list[str], folder: Path) -> list[str]:
    resolved = resolve_sources(sources, "text", folder / "downloads")
    return [str(s.path.relative_to(folder)) for s in resolved if isinstance(s, FileSource)]


def refusal(source: Path | str, downloads: Path = Path("nowhere")) -> str:
    with pytest.raises(InputError) as caught:
        resolve_sources([str(source)], "text", downloads)
    return str(caught.value)


def texts(source: str, downloads: Path = Path("nowhere")) -> list[str]:
    return [piece.text for piece in read_pieces(resolve_sources([source], "text", downloads))]


def test_file(folder: Path) -> None:
    assert names([str(folder / "b.txt")], folder) == ["b.txt"]
    assert "".join(texts(str(folder / "b.txt"))) == "b"


def test_folder_is_searched_to_its_depth_in_order(folder: Path) -> None:
    expected = ["a.md", "b.txt", "deep/d.txt", "deep/er/c.jsonl.gz"]
    assert names([str(folder)], folder) == expected


@pytest.mark.parametrize("pattern", ["", "*.txt"])
def test_order_is_not_that_of_the_disk(tmp_path: Path, pattern: str) -> None:
    ordered = [f"{number:03d}.txt" for number in range(100)]
    for name in ordered[::2] + ordered[::-2]:
        (tmp_path / name).write_text("x")
    assert names([str(tmp_path / pattern)], tmp_path) == ordered


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["b.txt"]),
        ("**/*.txt", ["b.txt", "deep/d.txt"]),
        ("[ab].*", ["a.md", "b.txt"]),
        ("*", ["a.md", "b.txt"]),
        ("deep/?.txt", ["deep/d.txt"]),
    ],
)
def test_glob(folder: Path, pattern: str, expected: list[str]) -> None:
    assert names([str(folder / pattern)], folder) == expected


def test_a_name_that_looks_like_a_glob_is_a_name_first(folder: Path) -> None:
    (folder / "[b].txt").write_text("brackets")
    assert names([str(folder / "[b].txt")], folder) == ["[b].txt"]


def test_order_is_that_of_the_sources(folder: Path) -> None:
    given = [str(folder / "deep"), str(folder / "b.txt"), str(folder / "*.md")]
    assert names(given, folder) == ["deep/d.txt", "deep/er/c.jsonl.gz", "b.txt", "a.md"]


def test_home_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    for source in ("~/b.txt", "~/b*"):
        assert names([source], folder) == ["b.txt"]


def test_url(web: WebServer, tmp_path: Path) -> None:
    source = web.put("/poems/a.jsonl", b'{"text": "from afar"}\n')
    assert texts(source, tmp_path / "downloads") == ["from afar"]
    assert texts(source, tmp_path / "downloads") == ["from afar"]
    assert web.requests == ["/poems/a.jsonl"]


def test_url_of_no_text(web: WebServer, tmp_path: Path) -> None:
    assert "is empty" in refusal(web.put("/a.txt", b""), tmp_path)
    assert "a.exe is of an unknown format; known: .txt" in refusal(
        web.put("/a.exe", b"x"), tmp_path
    )
    assert "append #sha256=" in refusal(web.address("/a.txt"), tmp_path)


@pytest.mark.parametrize("name", ["builtin:python-docs", "builtin:python-code"])
def test_builtin(name: str) -> None:
    (source,) = resolve_sources([name], "text", Path("nowhere"))
    assert source == BuiltinSource(name)
    assert source.num_bytes is None
    assert source.fingerprint.startswith(f"{name} ")
    first = next(iter(source.read())).text
    assert ("assert" in first) == (name == "builtin:python-docs")


@pytest.mark.parametrize(
    ("given", "near"),
    [("builtin:python-doc", "python-docs"), ("builtin:pythoncode", "python-code")],
)
def test_unknown_builtin(given: str, near: str) -> None:
    assert refusal(given) == f"there is no corpus {given}; did you mean 'builtin:{near}'?"
    assert refusal("builtin:x") == (
        "there is no corpus builtin:x; known: builtin:python-code, builtin:python-docs"
    )


def test_nothing_named() -> None:
    with pytest.raises(
        InputError, match="sources is empty; name at least one file, folder, glob or URL"
    ):
        resolve_sources([], "text", Path("nowhere"))


@pytest.mark.parametrize("name", ["nothing.txt", "nothing", "no/thing.txt"])
def test_missing(folder: Path, name: str) -> None:
    expected = f"source {folder / name} does not exist (from {Path.cwd()})"
    with pytest.raises(MissingFileError, match=re.escape(expected)):
        resolve_sources([str(folder / name)], "text", folder)


def test_empty_file(folder: Path) -> None:
    assert refusal(folder / "empty.txt") == f"{folder / 'empty.txt'} is empty"


@pytest.mark.parametrize("name", ["picture.png", "deep/data.bin"])
def test_unknown_format(folder: Path, name: str) -> None:
    assert refusal(folder / name) == f"{folder / name} is of an unknown format; known: {FORMATS}"


@pytest.mark.parametrize("pattern", ["", "*.txt", "*.png", "none*"])
def test_no_text(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "a.png").write_text("x")
    source = tmp_path / pattern
    assert refusal(source) == f"source {source} holds no text; looked for {FORMATS}"


@pytest.mark.parametrize(
    ("name", "size"), [("a.txt", 5), ("a.txt.gz", None), ("a.jsonl.ZST", None)]
)
def test_size_of_the_text(tmp_path: Path, name: str, size: int | None) -> None:
    (tmp_path / name).write_bytes(b"12345")
    assert FileSource(tmp_path / name, "text").num_bytes == size


def test_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    os.utime(path, ns=(1, 1))
    source = FileSource(path, "text")
    seen = {source.fingerprint}
    assert FileSource(path, "text").fingerprint in seen
    seen.add(FileSource(path, "body").fingerprint)
    path.write_text("three")
    os.utime(path, ns=(1, 1))
    seen.add(source.fingerprint)
    os.utime(path, ns=(2, 2))
    seen.add(source.fingerprint)
    path.rename(tmp_path / "b.txt")
    seen.add(FileSource(tmp_path / "b.txt", "text").fingerprint)
    assert len(seen) == 5


def test_fingerprint_does_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    here, there = FileSource(Path("a.txt"), "text"), FileSource(tmp_path / "a.txt", "text")
    assert here.fingerprint == there.fingerprint


@dataclass(frozen=True)
class PiecesSource:
    """Documents given as lists of pieces."""

    documents: list[list[str]]

    def read(self) -> Iterator[Piece]:
        for document in self.documents:
            for number, text in enumerate(document, start=1):
                yield Piece(text, ends_document=number == len(document))


DOCUMENT = st.lists(st.sampled_from(["", "a", "bc"]), min_size=1, max_size=4)


@given(corpora=st.lists(st.lists(DOCUMENT, max_size=5), max_size=3))
def test_documents_without_text_are_left_out(corpora: list[list[list[str]]]) -> None:
    found = [""]
    for text, ends_document in read_pieces(map(PiecesSource, corpora)):  # type: ignore[arg-type]
        found[-1] += text
        if ends_document:
            found.append("")
    joined = ["".join(document) for corpus in corpora for document in corpus]
    assert found == [*filter(None, joined), ""]

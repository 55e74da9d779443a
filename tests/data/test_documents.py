"""Documents of every format: as a stream, to the last character, or an error that says where."""

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data import documents
from lit_gpt_kit.data.documents import FORMATS, cut_text, format_suffix, read_documents
from lit_gpt_kit.errors import InputError
from tests.conftest import shared_data

DOCUMENTS = ["first\nsecond line\n", 'with "quotes", a\ttab\tand\r\nmore', "naïve 狐 🦊", " "]


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def as_json(texts: list[str]) -> bytes:
    return json.dumps([{"id": 1, "text": text} for text in texts]).encode()


def as_csv(texts: list[str], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *((1, t) for t in texts)])
    return file.getvalue().encode()


def as_parquet(texts: list[str]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = io.BytesIO()
    table = pyarrow.table({"id": [1] * len(texts), "text": texts})
    parquet.write_table(table, file, row_group_size=2)
    return file.getvalue()


def as_text(texts: list[str]) -> bytes:
    return "".join(texts).encode()


WRITERS: dict[str, Callable[[list[str]], bytes]] = {
    ".txt": as_text,
    ".md": as_text,
    ".py": as_text,
    ".jsonl": as_jsonl,
    ".json": as_json,
    ".csv": as_csv,
    ".tsv": lambda texts: as_csv(texts, "\t"),
    ".parquet": as_parquet,
}


def compress(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))
    return gzip.compress(content) if suffix == ".gz" else content


def read(path: Path, text_field: str = "text") -> list[str]:
    """The documents, their pieces joined."""
    found = [""]
    for piece in read_documents(path, text_field):
        found[-1] += piece.text
        if piece.ends_document:
            found.append("")
    assert found.pop() == "", "the last document has no end"
    return found


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(path: Path, text_field: str = "text") -> str:
    with pytest.raises(InputError) as caught:
        read(path, text_field)
    return str(caught.value)


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("piece_bytes", [5, 64 * 1024])
def test_every_format(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    compression: str,
    piece_bytes: int,
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", piece_bytes)
    content = compress(WRITERS[suffix](DOCUMENTS), compression)
    path = write(tmp_path, f"corpus{suffix}{compression}", content)
    is_one_document = suffix in (".txt", ".md", ".py")
    assert read(path) == (["".join(DOCUMENTS)] if is_one_document else DOCUMENTS)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.txt", ".txt"),
        ("a.JSONL", ".jsonl"),
        ("a.b.csv.gz", ".csv"),
        ("a.TXT.ZST", ".txt"),
        ("a.gz", None),
        ("a.bin", None),
        ("a.txt.bin", None),
        ("txt", None),
        (".txt", None),
    ],
)
def test_format_suffix(name: str, suffix: str | None) -> None:
    assert format_suffix(Path("folder.txt") / name) == suffix


@settings(deadline=None)
@given(
    text=st.text(),
    piece_bytes=st.integers(1, 12),
    compression=st.sampled_from(["", ".gz", ".zst"]),
)
def test_pieces_of_a_text_file_join_to_its_content(
    tmp_path_factory: pytest.TempPathFactory, text: str, piece_bytes: int, compression: str
) -> None:
    content = compress(text.encode(), compression)
    path = write(tmp_path_factory.mktemp("text"), f"a.txt{compression}", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_BYTES", piece_bytes)
        pieces = list(read_documents(path, "text"))
    assert "".join(piece.text for piece in pieces) == text.removeprefix("\ufeff")
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(len(piece.text.encode()) <= 2 * piece_bytes + 3 for piece in pieces)


@pytest.mark.parametrize("character", "aéæ狐🦊")
@pytest.mark.parametrize("shift", range(4))
def test_characters_on_the_border_of_a_piece(tmp_path: Path, character: str, shift: int) -> None:
    text = "x" * shift + character * 50_000
    path = write(tmp_path, "a.txt", text.encode())
    pieces = list(read_documents(path, "text"))
    assert "".join(piece.text for piece in pieces) == text
    sizes = [len(piece.text.encode()) for piece in pieces]
    assert max(sizes) < 1.01 * documents.PIECE_BYTES


def test_pieces_end_with_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"a line of text\n" * 20_000)
    pieces = list(read_documents(path, "text"))
    assert len(pieces) > 4
    assert all(piece.text.endswith("line of text\n") for piece in pieces[:-1])


def test_a_file_is_a_stream(tmp_path: Path) -> None:
    good = "狐" * documents.PIECE_BYTES
    path = write(tmp_path, "a.txt", good.encode() + b"\xff")
    assert list(islice(read_documents(path, "text"), 2))[1].text[0] == "狐"
    path = write(tmp_path, "a.jsonl", as_jsonl(["one"]) + b"{broken")
    assert next(iter(read_documents(path, "text"))).text == "one"


@settings(deadline=None)
@given(text=st.text("ab狐\n"), piece_bytes=st.integers(1, 12))
def test_cut_text_joins_to_the_text(text: str, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_BYTES", piece_bytes)
        pieces = list(cut_text(text))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for piece in pieces:
        assert len(piece.text) <= piece_bytes
        if not piece.ends_document:
            assert piece.text.endswith("\n") or "\n" not in piece.text


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".tsv"])
def test_byte_order_mark_is_no_text(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, f"a{suffix}", b"\xef\xbb\xbf" + WRITERS[suffix](["\ufeffa", "b"]))
    assert "".join(read(path)) == "\ufeffab"  # only the first one is a mark


@settings(deadline=None)
@given(
    before=st.text(),
    after=st.binary(),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    piece_bytes=st.integers(1, 12),
)
def test_byte_that_is_not_utf8_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    before: str,
    after: bytes,
    mark: bytes,
    piece_bytes: int,
) -> None:
    good = mark + before.encode()
    path = write(tmp_path_factory.mktemp("text"), "a.txt", good + b"\xff" + after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_BYTES", piece_bytes)
        expected = (
            f"{path} is not UTF-8 text: byte 0xff at offset {len(good)}; "
            "convert the file to UTF-8 (iconv does)"
        )
        assert refusal(path) == expected


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_bad_byte_beyond_the_first_block(tmp_path: Path, compression: str) -> None:
    good = "naïve\n".encode() * 50_000
    content = compress(good + b"caf\xe9\n", compression)
    path = write(tmp_path, f"a.txt{compression}", content)
    assert f"byte 0xe9 at offset {len(good) + 3};" in refusal(path)
    path = write(tmp_path, "a.jsonl", as_jsonl(["é"] * 9) + b'{"text": "\xe9"}\n')
    assert f"byte 0xe9 at offset {len(as_jsonl(['é'] * 9)) + 10};" in refusal(path)


def test_a_character_that_never_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "four 🦊".encode()[:-1])
    assert "byte 0xf0 at offset 5;" in refusal(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a"', "not valid JSON (Expecting ',' delimiter at column 13)"),
        ("plain words", "not valid JSON (Expecting value at column 1)"),
        ('["a"]', "expected a JSON object with fields"),
        ('{"text": 3}', "field 'text' is not text"),
        ('{"text": null}', "field 'text' is not text"),
        ('{"text": "\\ud83e"}', "field 'text' holds half a character (\\ud83e); remove it"),
        (
            '{"title": "a", "body": "b"}',
            "no field 'text'; fields there: 'title', 'body' (set text_field)",
        ),
        (
            '{"id": 1, "texts": "b"}',
            "no field 'text'; fields there: 'id', 'texts' (set text_field); did you mean 'texts'?",
        ),
        ("{}", "no field 'text'; fields there: none (set text_field)"),
    ],
)
def test_broken_line(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path, "a.jsonl", as_jsonl(["one"]) + b"\n  \n" + line.encode() + b"\n")
    assert refusal(path) == f"{path}, line 4: {said}"


def test_lines_without_text_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'\n{"text": "a"}\r\n   \n{"text": "b"}')
    assert read(path) == ["a", "b"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_text_field_chooses(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, f"a{suffix}", WRITERS[suffix](["a", "b"]))
    if suffix in (".csv", ".tsv"):
        assert read(path, "id") == ["1", "1"]
    there = "fields there: 'id', 'text' (set text_field)"
    expected = f"{path}, line 1: no field 'content'; {there}"
    assert refusal(path, "content") == expected
    assert refusal(path, "txt") == f"{path}, line 1: no field 'txt'; {there}; did you mean 'text'?"


def test_table_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"")
    assert refusal(path).endswith("no field 'text'; fields there: none (set text_field)")


def test_rows_of_a_table_may_be_short(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    path = write(tmp_path, "a.csv", f"id,text\n1,{long}\n2\n3,c\n".encode())
    assert read(path) == [long, "", "c"]


def test_a_row_with_more_cells_than_columns_is_no_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"id,text\n1,b\n3,c,d\n")
    assert refusal(path) == (
        f"{path}, line 3: 3 cells where there are 2 columns; quote texts that hold the separator"
    )


@pytest.mark.parametrize(("before", "line"), [(b"text\nfine\n", 3), (b"", 1)])
def test_broken_table(tmp_path: Path, before: bytes, line: int) -> None:
    path = write(tmp_path, "a.csv", before + b"old\rMac\n")
    assert refusal(path).startswith(f"{path}, line {line}: not valid CSV (new-line character seen")


def test_parquet_cells_without_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", as_parquet(["a", None, "", "b"]))  # type: ignore[list-item]
    assert read(path) == ["a", "", "", "b"]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_broken_parquet(tmp_path: Path, compression: str) -> None:
    content = compress(as_parquet(DOCUMENTS)[:-10], compression)
    path = write(tmp_path, f"a.parquet{compression}", content)
    assert refusal(path).startswith(f"{path} is not a whole Parquet file: ")


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_file_cut_short(tmp_path: Path, suffix: str, compression: str) -> None:
    whole = compress(WRITERS[suffix](DOCUMENTS * 99), compression)
    path = write(tmp_path, f"a{suffix}{compression}", whole[: len(whole) - 5])
    ends = {
        ".gz": "Compressed file ended before the end-of-stream marker was reached",
        ".zst": "the file ends in the middle of a frame",
    }
    assert refusal(path) == f"{path} cannot be decompressed: {ends[compression]}"


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_not_compressed_at_all(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path, f"a.txt{compression}", b"plain words")
    assert refusal(path).startswith(f"{path} cannot be decompressed: ")


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = bytearray(compress(as_text(DOCUMENTS), ".gz"))
    whole[10] = 0x07  # a block of a type that there is not
    path = write(tmp_path, "a.txt.gz", bytes(whole))
    assert refusal(path).startswith(f"{path} cannot be decompressed: Error -3 ")


def test_a_file_that_vanished_is_no_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.txt"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("library", "name"), [("pyarrow", "a.parquet"), ("zstandard", "a.txt.zst")]
)
def test_missing_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    path = write(tmp_path, name, b"x")
    monkeypatch.setitem(sys.modules, library, None)
    assert refusal(path) == (
        f"{path} needs the library {library}; install it with: pip install 'lit-gpt-kit[data]'"
    )


def test_real_files() -> None:
    books = read(shared_data("classic_books/books.jsonl.gz"))
    with gzip.open(shared_data("classic_books/books.jsonl.gz")) as file:
        assert books == [json.loads(line)["text"] for line in file]
    text = shared_data("tiny_shakespeare/input.txt")
    assert read(text) == [text.read_bytes().decode()]
    assert re.match(r"First Citizen:\nBefore we proceed", read(text)[0])

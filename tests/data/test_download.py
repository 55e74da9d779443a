"""Files from the web: the one that was meant, once, or an error and nothing left behind."""

import hashlib
import re
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lit_gpt_kit.data import download as module
from lit_gpt_kit.data.download import CHUNK_BYTES, download, split_url
from lit_gpt_kit.errors import InputError
from tests.data.conftest import WebServer

CONTENT = b"some text\n" * 300_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def refusal(source: str, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        download(source, folder)
    if folder.exists():
        assert list(folder.iterdir()) == []
    return str(caught.value)


def test_the_file_that_was_meant(web: WebServer, tmp_path: Path) -> None:
    assert len(CONTENT) > 2 * CHUNK_BYTES
    path = download(web.put("/deep/a.txt", CONTENT), tmp_path / "downloads")
    assert path == tmp_path / "downloads" / f"{DIGEST[:16]}-a.txt"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_it_is_kept(web: WebServer, tmp_path: Path) -> None:
    source = web.put("/a.txt", CONTENT)
    first = download(source, tmp_path)
    web.pages.clear()
    assert download(source, tmp_path) == first
    assert web.requests == ["/a.txt"]


def test_another_content_of_the_same_name_is_another_file(web: WebServer, tmp_path: Path) -> None:
    paths = [download(web.put("/a.txt", content), tmp_path) for content in (b"one", b"two")]
    assert [path.read_bytes() for path in paths] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a.txt?raw=true", "a.txt"), ("/", "download"), ("/x/%C3%A9.md", "%C3%A9.md")],
)
def test_name_of_the_file(web: WebServer, tmp_path: Path, path: str, name: str) -> None:
    web.put(path.partition("?")[0], CONTENT)
    source = f"{web.address(path)}#sha256={DIGEST.upper()}"
    assert download(source, tmp_path).name == f"{DIGEST[:16]}-{name}"
    assert web.requests == [path]


def test_other_content(web: WebServer, tmp_path: Path) -> None:
    web.put("/a.txt", b"something else")
    other = hashlib.sha256(b"something else").hexdigest()
    assert refusal(f"{web.address('/a.txt')}#sha256={DIGEST}", tmp_path) == (
        f"{web.address('/a.txt')} sent other content than was meant: its sha256 is {other}, "
        f"expected {DIGEST}"
    )


@pytest.mark.parametrize(
    "fragment",
    [
        "",
        "#",
        "#sha256=",
        f"#{DIGEST}",
        f"#md5={DIGEST}",
        f"#sha256={DIGEST[1:]}",
        "#sha256=" + "g" * 64,
    ],
)
def test_content_must_be_named(fragment: str, tmp_path: Path) -> None:
    source = f"https://example.com/a.txt{fragment}"
    expected = (
        f"{source} does not say which content is meant; append #sha256=<its 64 hex digits> "
        "(sha256sum prints them)"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        split_url(source)
    assert refusal(source, tmp_path) == expected


def test_split_url() -> None:
    source = f"https://example.com/a.txt?b=c#sha256={DIGEST.upper()}"
    assert split_url(source) == ("https://example.com/a.txt?b=c", DIGEST)


def test_server_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}/a.txt"
    said = refusal(f"{url}#sha256={DIGEST}", tmp_path)
    assert said.startswith(f"{url} cannot be downloaded (")
    assert "refused" in said
    assert said.endswith("); download it elsewhere and name the file")


def test_page_that_is_not_there(web: WebServer, tmp_path: Path) -> None:
    assert refusal(f"{web.address('/b.txt')}#sha256={DIGEST}", tmp_path) == (
        f"{web.address('/b.txt')} cannot be downloaded (Not Found); "
        "download it elsewhere and name the file"
    )


def test_server_that_does_not_answer(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)
    assert "cannot be downloaded (timed out)" in refusal(web.put("/slow.txt", CONTENT), tmp_path)


def test_connection_that_breaks(web: WebServer, tmp_path: Path) -> None:
    # Whether the library sees it or the sha256 does, depends on the Python.
    said = refusal(web.put("/short.txt", CONTENT), tmp_path)
    assert re.search(r"cannot be downloaded|sent other content", said)


def test_address_that_is_none(tmp_path: Path) -> None:
    said = refusal(f"http://127.0.0.1/a b.txt#sha256={DIGEST}", tmp_path)
    assert said.startswith("http://127.0.0.1/a b.txt cannot be downloaded (URL can't contain")


def test_full_disk(
    web: WebServer, tmp_path: Path, limit_file_size: Callable[[int], AbstractContextManager[None]]
) -> None:
    with limit_file_size(1 << 20):
        said = refusal(web.put("/a.txt", CONTENT), tmp_path)
    assert said.startswith(f"the disk that holds {tmp_path} is full (")


def test_progress_is_shown(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(web.put("/a.txt", CONTENT), tmp_path)
    url = web.address("/a.txt")
    shown = capsys.readouterr().err
    assert re.fullmatch(
        rf"downloading {re.escape(url)} \.\.\.\ndownloading {re.escape(url)}: 3\.0 MB in .* s\n",
        shown,
    )

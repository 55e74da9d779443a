"""Shared by the tests of data: a tokenizer, a store in memory, disks without room, a web server."""

import hashlib
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return train_tokenizer(TokenizerConfig("byte"), [])


@pytest.fixture(scope="session")
def counting_store() -> Callable[[list[int]], SimpleNamespace]:
    """Builds a store of documents of these lengths, whose token i is i."""

    def build(lengths: list[int]) -> SimpleNamespace:
        ends = np.cumsum(np.array(lengths, dtype=np.int64))
        info = SimpleNamespace(num_tokens=sum(lengths), num_documents=len(lengths))
        tokens = np.arange(sum(lengths), dtype=np.uint32)
        return SimpleNamespace(tokens=tokens, document_ends=ends, info=info)

    return build


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skips the test where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here ({error})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def limit_file_size() -> Callable[[int], AbstractContextManager[None]]:
    """Lets no file grow past a number of bytes, as a quota would."""

    @contextmanager
    def limit(num_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


class WebServer(ThreadingHTTPServer):
    """Serves `pages` (path -> content) on this machine and notes what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), WebPage)

    def put(self, path: str, content: bytes) -> str:
        """The page's address with the sha256 of its content."""
        self.pages[path] = content
        return f"{self.address(path)}#sha256={hashlib.sha256(content).hexdigest()}"

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class WebPage(BaseHTTPRequestHandler):
    """Answers with a page; a path with "short" in it ends too soon, one with "slow" too late."""

    server: WebServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0]
        if path not in self.server.pages:
            self.send_error(404)
            return
        if "slow" in path:
            time.sleep(0.5)
        content = self.server.pages[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if "short" in path else content)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()

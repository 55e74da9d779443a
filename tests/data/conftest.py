"""Shared by the tests of data: a byte tokenizer, a store in memory, disks with little room."""

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
        tokens = np.arange(sum(lengths), dtype=np.uint16)
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

"""Memory that goes is taken again: by counting the pages that the system had to clear."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_gpt_kit.cli import allocator, train
from tests.command import run

PROGRAM = """
import ctypes, resource, sys
from lit_gpt_kit.cli.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = libc.malloc(2**27)
    libc.memset(piece, 1, 2**27)
    libc.free(piece)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")


def bytes_cleared(mode: str) -> int:
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@on_glibc
def test_what_is_freed_is_used_again() -> None:
    assert bytes_cleared("kept") < 2**20
    # Huge pages, where the system gives them, come as fewer faults than pages.
    assert bytes_cleared("given back") > bytes_cleared("kept")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()


def test_asked_for_in_training(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(train, "keep_freed_memory", lambda: asked.append(True))
    result = run(project, "fit", "--config", "tiny.yaml", "--trainer.fast_dev_run=true")
    assert result.status == 0, result.err
    assert asked == [True]

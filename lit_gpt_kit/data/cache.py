"""Folders of files that are made once, whole or not at all, by whichever process comes first."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from lit_gpt_kit.files import says_when_full


def build_once(
    folder: Path, is_whole: Callable[[Path], bool], write: Callable[[Path], None]
) -> None:
    """Make `folder`, unless it is there.

    Any number of processes may call this at once: one builds while the others wait. A process
    killed half-way leaves nothing that is taken for the folder.

    Args:
        folder: its name should change with what it is made of.
        is_whole: whether a folder is there and undamaged.
        write: fills an empty folder, and flushes its files to the disk.

    Raises:
        InputError: the disk is full.
    """
    if is_whole(folder):
        return
    with says_when_full(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The system lets go of the lock when its holder dies.
        with FileLock(folder.with_suffix(".lock")):
            if not is_whole(folder):
                _build(folder, write)


def flush_to_disk(file: BinaryIO) -> None:
    """Wait until the disk has the file."""
    # Without it a power cut after the rename could leave a folder of empty files.
    file.flush()
    os.fsync(file.fileno())


def hash_content(parts: Iterable[Any]) -> str:
    """The SHA-256 of arrays, texts and numbers."""
    digest = hashlib.sha256()
    for part in parts:
        is_array = isinstance(part, np.ndarray)
        digest.update(np.ascontiguousarray(part).data if is_array else repr(part).encode())
    return digest.hexdigest()


def _build(folder: Path, write: Callable[[Path], None]) -> None:
    # Whoever left an unfinished one there is dead: we hold the lock.
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        with says_when_full(folder.parent):  # here too, before what filled it is swept away
            write(unfinished)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or we would not be here
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise

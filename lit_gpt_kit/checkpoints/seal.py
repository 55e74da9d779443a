"""Checkpoint files that know their own content: size and SHA-256, within the file itself.

torch writes a zip archive. A zip may end in a comment, which readers pass over; ours holds the hash
of all bytes before it. So a file and its hash come into being together, by one rename.
"""

import hashlib
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lit_gpt_kit.files import put_in_place, says_when_full

MARK = b"lit-gpt sha256 "
COMMENT_LENGTH = len(MARK) + 2 * hashlib.sha256().digest_size
END_OF_ZIP = b"PK\x05\x06"
END_LENGTH = 22
"""The record that ends a zip, without its comment; the comment's length is its last two bytes."""
CHUNK_BYTES = 2**22

_known_whole: set[tuple[int, ...]] = set()
"""Files that this process has hashed; a large one is read again before it is loaded."""


def save_sealed(content: Any, path: Path, keep_as: Path | None = None) -> None:
    """Write `content` with torch beside `path`, seal it, flush it to the disk, rename it.

    Args:
        content: tensors and primitives.
        path: where it goes; what was there before gives way when the new file is whole.
        keep_as: what was there before is kept under this name, unless it is damaged.

    Raises:
        InputError: the disk is full; what `path` held before is still there.
    """
    # Always the same name, so that those of killed runs do not pile up.
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        with says_when_full(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                _write(content, file)
                file.flush()
                os.fsync(file.fileno())
            _known_whole.add(_identity(temporary))
            if keep_as is not None and path.exists() and has_good_seal(path) is not False:
                _link(path, keep_as)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def has_good_seal(path: Path) -> bool | None:
    """Whether the file is what was sealed; None where it has no seal, as of plain Lightning's."""
    identity = _identity(path)
    if identity in _known_whole:
        return True
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_LENGTH - COMMENT_LENGTH))
        tail = file.read()
        start = tail.rfind(END_OF_ZIP)
        end, comment = tail[start : start + END_LENGTH], tail[start + END_LENGTH :]
        if start < 0 or len(end) < END_LENGTH:
            return None  # no zip, or no end of one: torch will say so
        if struct.unpack("<H", end[-2:])[0] != len(comment):
            return False
        if not comment.startswith(MARK):
            return None
        if _hash(file, size - COMMENT_LENGTH) != comment[len(MARK) :]:
            return False
    _known_whole.add(identity)
    return True


def read_seal(path: Path) -> str | None:
    """The SHA-256 that a file was sealed with, without reading the rest; None without a seal."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - COMMENT_LENGTH))
        comment = file.read()
    return comment[len(MARK) :].decode() if comment.startswith(MARK) else None


class _SealingFile:
    """What torch writes into: the file, less its last bytes, hashed as they pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._held = b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if len(view) >= END_LENGTH:
            self._pass_on(self._held)
            self._pass_on(view[:-END_LENGTH])
            self._held = bytes(view[-END_LENGTH:])
        else:
            held = self._held + bytes(view)
            self._pass_on(held[:-END_LENGTH])
            self._held = held[-END_LENGTH:]
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        assert self._held.startswith(END_OF_ZIP), "torch.save wrote no zip archive"
        self._pass_on(self._held[:-2] + struct.pack("<H", COMMENT_LENGTH))
        self._file.write(MARK + self._hash.hexdigest().encode())

    def _pass_on(self, data: Any) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self._hash.update(data)


def _write(content: Any, file: BinaryIO) -> None:
    sealing = _SealingFile(file)
    try:
        torch.save(content, sealing)  # type: ignore[arg-type]  # it asks for write and flush alone
    except RuntimeError as error:
        # torch says no more than that it stands at another place of the file than it should.
        raise sealing.error or error from error
    sealing.seal()


def _link(path: Path, other: Path) -> None:
    """Make `other` the same file as `path`, in one stroke."""
    temporary = other.with_name(f".{other.name}.unfinished")
    temporary.unlink(missing_ok=True)
    try:
        # A file system without links: for a moment there is no `path`, but `other` is whole.
        with suppress(OSError):
            os.link(path, temporary)
        # Perhaps a folder: a run on several devices was continued on one.
        put_in_place(temporary if temporary.exists() else path, other)
    finally:
        temporary.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hash(file: BinaryIO, size: int) -> bytes:
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0:
        chunk = file.read(min(CHUNK_BYTES, size))
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()

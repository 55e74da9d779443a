"""A file as a stream of bytes, decompressed on the way where its name says so."""

import gzip
import io
from pathlib import Path
from typing import IO, Any, cast

from lit_gpt_kit.errors import InputError

COMPRESSED = frozenset({".gz", ".zst"})
BLOCK_BYTES = 1024
"""Compressed bytes expanded at once: few, since repetitive text grows a thousandfold."""


def is_compressed(path: Path) -> bool:
    """Whether the last suffix is that of a compressed file."""
    return path.suffix.lower() in COMPRESSED


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, those of its content if it is a .gz or a .zst.

    Reading raises EOFError, zlib.error, or an OSError without a number where the compressed file
    is damaged or cut short.

    Raises:
        InputError: the library for .zst is not installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return io.BufferedReader(_ZstandardFile(path)) if suffix == ".zst" else path.open("rb")


def missing_library(path: Path, library: str) -> InputError:
    """The error for a file that only an optional library can read."""
    return InputError(
        f"{path} needs the library {library}; install it with: pip install 'lit-gpt-kit[data]'"
    )


class _ZstandardFile(io.RawIOBase):
    """The content of a .zst file, frame after frame.

    The library's own reader takes a file that was cut short for a whole one.
    """

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise missing_library(path, "zstandard") from None
        self._library = zstandard
        self._file = path.open("rb")
        self._frame: Any = None
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content and (block := self._next_block()):
            if self._frame is None:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                self._content = memoryview(self._frame.decompress(block))
            except self._library.ZstdError as error:
                raise OSError(str(error)) from None
        if not self._content and self._frame is not None:
            raise EOFError("the file ends in the middle of a frame")
        count = min(len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def _next_block(self) -> bytes:
        rest = b""
        if self._frame is not None and self._frame.eof:
            rest, self._frame = self._frame.unused_data, None
        return rest or self._file.read(BLOCK_BYTES)

    def close(self) -> None:
        self._file.close()
        super().close()

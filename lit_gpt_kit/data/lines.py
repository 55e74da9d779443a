"""A file as lines of text, decompressed and decoded on the way."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_gpt_kit.data.compression import open_bytes
from lit_gpt_kit.errors import InputError

BYTE_ORDER_MARK = "\ufeff"
"""Windows editors begin a file with it."""


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file, each with its line end.

    Raises:
        InputError: bytes that are not UTF-8, naming the place.
    """
    offset = 0
    with open_bytes(path) as file:
        for line in file:
            yield decode(line, path, offset)
            offset += len(line)


def decode(block: bytes, path: Path, offset: int) -> str:
    """The text of a block of bytes that lies at `offset` in a file.

    Raises:
        InputError: bytes that are not UTF-8, naming the place.
    """
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: byte 0x{block[error.start]:02x} at offset "
            f"{offset + error.start}; convert the file to UTF-8 (iconv does)"
        ) from None
    return text.removeprefix(BYTE_ORDER_MARK) if offset == 0 else text


@contextmanager
def says_when_damaged(path: Path) -> Iterator[None]:
    """Turn what a decompressor says of a damaged file into one line.

    Raises:
        InputError: the body met a compressed file that is damaged or cut short.
    """
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path} cannot be decompressed: {error}") from None

"""One file to its documents, read as a stream, whatever the format.

A document comes as one or more pieces, so that a file larger than memory is no different from a
small one. A text file is one document; every row of a JSONL, JSON, CSV, TSV or Parquet file is one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lit_gpt_kit.data.compression import is_compressed, open_bytes
from lit_gpt_kit.data.lines import decode, says_when_damaged
from lit_gpt_kit.data.rows import ROW_FORMATS, read_rows

PIECE_BYTES = 64 * 1024
"""A piece holds about this much text; a tokenizer encodes many pieces in parallel."""


class Piece(NamedTuple):
    """A document, or a part of one."""

    text: str
    ends_document: bool


def read_documents(path: Path, text_field: str) -> Iterator[Piece]:
    """The documents of a file, in pieces, in the order of the file.

    Args:
        path: the file; its suffix says the format.
        text_field: the field or column that holds the text, in the formats that have fields.

    Raises:
        InputError: naming file and place: bytes that are not UTF-8, a broken JSON line, a missing
            field, an unreadable compressed file.
    """
    with says_when_damaged(path):
        yield from FORMATS[format_suffix(path)](path, text_field)


def format_suffix(path: Path) -> str | None:
    """The suffix that names the format (".jsonl" of "a.jsonl.gz"), or None if it is unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if is_compressed(path):
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def cut_text(text: str) -> Iterator[Piece]:
    """A document that is in memory already, in pieces that end with a line where they can."""
    start = 0
    while len(text) - start > PIECE_BYTES:
        end = text.rfind("\n", start, start + PIECE_BYTES) + 1 or start + PIECE_BYTES
        yield Piece(text[start:end], ends_document=False)
        start = end
    yield Piece(text[start:], ends_document=True)


def _read_text(path: Path, text_field: str) -> Iterator[Piece]:
    with open_bytes(path) as file:
        offset, held = 0, b""
        while block := file.read(PIECE_BYTES):
            held += block
            end = held.rfind(b"\n") + 1 or _last_character_border(held)
            if text := decode(held[:end], path, offset):
                yield Piece(text, ends_document=False)
            offset, held = offset + end, held[end:]
        yield Piece(decode(held, path, offset), ends_document=True)


def _read_field(path: Path, text_field: str) -> Iterator[Piece]:
    for row in read_rows(path, {text_field: "text_field"}):
        yield from cut_text(row.text(text_field))


FORMATS: dict[str | None, Callable[[Path, str], Iterator[Piece]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    **dict.fromkeys(ROW_FORMATS, _read_field),
}
"""How a file of each suffix is read; each may also be .gz or .zst."""


def _last_character_border(block: bytes) -> int:
    """Where the last character begins that may still go on in the next block."""
    for back in range(1, min(4, len(block)) + 1):
        byte = block[-back]
        if byte >= 0xC0:  # the first byte of a character of several bytes
            return len(block) - back
        if byte < 0x80:
            break
    return len(block)

"""One file to its documents, read as a stream, whatever the format.

A document comes as one or more pieces, so that a file larger than memory is no different from a
small one. A text file is one document; every row of a JSONL, CSV, TSV or Parquet file is one.
"""

import csv
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lit_gpt_kit.data.compression import is_compressed, missing_library, open_bytes
from lit_gpt_kit.errors import InputError, did_you_mean

PIECE_BYTES = 64 * 1024
"""A piece holds about this much text; a tokenizer encodes many pieces in parallel."""
BYTE_ORDER_MARK = "\ufeff"
"""Windows editors begin a file with it."""
HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
"""JSON can spell one half of a surrogate pair, which is no text in any encoding."""


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
    try:
        yield from FORMATS[format_suffix(path)](path, text_field)
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path} cannot be decompressed: {error}") from None


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
            if text := _decode(held[:end], path, offset):
                yield Piece(text, ends_document=False)
            offset, held = offset + end, held[end:]
        yield Piece(_decode(held, path, offset), ends_document=True)


def _read_jsonl(path: Path, text_field: str) -> Iterator[Piece]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno})"
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object with fields")
        if text_field not in row:
            raise _missing_field(path, number, text_field, list(row))
        if not isinstance(row[text_field], str):
            raise InputError(f"{path}, line {number}: field '{text_field}' is not text")
        if half := HALF_CHARACTER.search(row[text_field]):
            raise InputError(
                f"{path}, line {number}: field '{text_field}' holds half a character "
                f"(\\u{ord(half[0]):04x}); remove it"
            )
        yield from cut_text(row[text_field])


def _read_csv(path: Path, text_field: str, delimiter: str = ",") -> Iterator[Piece]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(_lines(path), delimiter=delimiter)
    try:
        columns = list(reader.fieldnames or [])
        if text_field not in columns:
            raise _missing_field(path, 1, text_field, columns)
        for row in reader:
            yield from cut_text(row[text_field] or "")
    except csv.Error as error:
        # DictReader's own line_num stays behind at the last good row.
        line = reader.reader.line_num
        raise InputError(f"{path}, line {line}: not valid CSV ({error})") from None


def _read_tsv(path: Path, text_field: str) -> Iterator[Piece]:
    yield from _read_csv(path, text_field, delimiter="\t")


def _read_parquet(path: Path, text_field: str) -> Iterator[Piece]:
    try:
        from pyarrow import lib, parquet
    except ImportError:
        raise missing_library(path, "pyarrow") from None
    source = io.BytesIO(open_bytes(path).read()) if is_compressed(path) else path
    try:
        table = parquet.ParquetFile(source)
        columns = table.schema_arrow.names
        if text_field not in columns:
            raise _missing_field(path, 1, text_field, columns)
        for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
            for text in batch.column(0).to_pylist():
                yield from cut_text(str(text or ""))
    except lib.ArrowInvalid as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}") from None


FORMATS: dict[str | None, Callable[[Path, str], Iterator[Piece]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
"""How a file of each suffix is read; each may also be .gz or .zst."""


def _lines(path: Path) -> Iterator[str]:
    offset = 0
    with open_bytes(path) as file:
        for line in file:
            yield _decode(line, path, offset)
            offset += len(line)


def _decode(block: bytes, path: Path, offset: int) -> str:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: byte 0x{block[error.start]:02x} at offset "
            f"{offset + error.start}; convert the file to UTF-8 (iconv does)"
        ) from None
    return text.removeprefix(BYTE_ORDER_MARK) if offset == 0 else text


def _last_character_border(block: bytes) -> int:
    """Where the last character begins that may still go on in the next block."""
    for back in range(1, min(4, len(block)) + 1):
        byte = block[-back]
        if byte >= 0xC0:  # the first byte of a character of several bytes
            return len(block) - back
        if byte < 0x80:
            break
    return len(block)


def _missing_field(path: Path, line: int, field: str, fields: list[str]) -> InputError:
    there = ", ".join(f"'{name}'" for name in fields) or "none"
    near = did_you_mean(field, fields) if fields else ""
    hint = near if "did you mean" in near else ""
    return InputError(
        f"{path}, line {line}: no field '{field}'; fields there: {there} (set text_field){hint}"
    )

"""One file to its rows, read as a stream: JSONL, JSON, CSV, TSV or Parquet, plain or compressed."""

import csv
import io
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_gpt_kit.data.compression import is_compressed, missing_library, open_bytes
from lit_gpt_kit.data.lines import read_lines, says_when_damaged
from lit_gpt_kit.errors import InputError, did_you_mean

HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
"""JSON can spell one half of a surrogate pair, which is no text in any encoding."""

MAX_LINES_OF_FIELD = 1000
"""A quote in a TSV file that is not closed within so many lines is no opening quote."""

Wanted = Mapping[str, str]
"""Columns that must be there, each with the setting by which a person chooses it."""


class Row(NamedTuple):
    """What a row holds, by column, and where it stands."""

    values: Mapping[str, Any]
    place: str

    def text(self, column: str) -> str:
        """The text in a column.

        Raises:
            InputError: it holds no text, or half a character.
        """
        value = self.values[column]
        if not isinstance(value, str):
            raise InputError(f"{self.place}: field '{column}' is not text")
        if half := HALF_CHARACTER.search(value):
            raise InputError(
                f"{self.place}: field '{column}' holds half a character "
                f"(\\u{ord(half[0]):04x}); remove it"
            )
        return value


def read_rows(
    path: Path, wanted: Wanted | None = None, column_names: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows of a file, in its order. An empty cell of a table is an empty text.

    Args:
        path: the file; its suffix says the format.
        wanted: the columns that will be looked at; a Parquet file's others are not read. By
            default all there are.
        column_names: of a CSV or TSV file without a header.

    Raises:
        InputError: naming file and place: a wanted column is missing, broken JSON or CSV, bytes
            that are not UTF-8, an unreadable compressed file, an unknown format.
    """
    suffix = row_suffix(path)
    if suffix is None:
        known = ", ".join(ROW_FORMATS)
        raise InputError(f"{path} holds no rows; known: {known} (each also .gz or .zst)")
    with says_when_damaged(path):
        yield from ROW_FORMATS[suffix](path, wanted or {}, column_names)


def row_suffix(path: Path) -> str | None:
    """The suffix that names the format (".jsonl" of "a.jsonl.gz"), or None if it has no rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if is_compressed(path):
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in ROW_FORMATS else None


def _read_jsonl(path: Path, wanted: Wanted, names: Sequence[str] | None) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            raise InputError(
                f"{place}: not valid JSON ({error.msg} at column {error.colno})"
            ) from None
        except RecursionError:
            raise InputError(f"{place}: JSON that is nested too deep") from None
        yield _object(values, place, wanted)


def _read_json(path: Path, wanted: Wanted, names: Sequence[str] | None) -> Iterator[Row]:
    """A list of objects, alone or as `data`; SQuAD's articles become a row a question."""
    try:
        content = json.loads("".join(read_lines(path)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); a file with an object a line is .jsonl"
        ) from None
    found = content.get("data") if isinstance(content, dict) else content
    if not isinstance(found, list):
        raise InputError(f"{path}: expected a JSON list of objects, alone or as 'data'")
    for number, values in enumerate(found, start=1):
        place = f"{path}, row {number}"
        if isinstance(values, dict) and isinstance(values.get("paragraphs"), list):
            yield from _squad_questions(values, place, wanted)
        else:
            yield _object(values, place, wanted)


def _squad_questions(article: Mapping[str, Any], place: str, wanted: Wanted) -> Iterator[Row]:
    """The questions of an article of SQuAD (Rajpurkar et al. 2016)."""
    try:
        for paragraph in article["paragraphs"]:
            about = {"title": article.get("title"), "context": paragraph["context"]}
            for question in paragraph["qas"]:
                yield _object({**about, **question}, f"{place}, question {question['id']}", wanted)
    except (KeyError, TypeError):
        raise InputError(f"{place}: has paragraphs, but not those of SQuAD") from None


def _object(values: Any, place: str, wanted: Wanted) -> Row:
    if not isinstance(values, dict):
        raise InputError(f"{place}: expected a JSON object with fields")
    _check(wanted, values, place)
    return Row(values, place)


def _read_csv(path: Path, wanted: Wanted, names: Sequence[str] | None) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(read_lines(path))
    try:
        yield from _table(path, wanted, names, ((reader.line_num, record) for record in reader))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _read_tsv(path: Path, wanted: Wanted, names: Sequence[str] | None) -> Iterator[Row]:
    yield from _table(path, wanted, names, _tsv_records(path, names))


def _tsv_records(path: Path, names: Sequence[str] | None) -> Iterator[tuple[int, list[str]]]:
    """The records of a TSV file, with the numbers of their last lines.

    Some programs quote its fields as in CSV, and in other files a quote is a quote. A line that
    breaks the rules of quoting, but has the right number of fields without them, is of the latter.
    """
    csv.field_size_limit(sys.maxsize)
    num_columns = len(names) if names else None
    lines = enumerate(read_lines(path), start=1)
    again: deque[tuple[int, str]] = deque()
    held: list[tuple[int, str]] = []
    while True:
        numbered = again.popleft() if again else next(lines, None)
        if numbered is not None:
            held.append(numbered)
        elif not held:
            return
        try:
            record = next(csv.reader((text for _, text in held), delimiter="\t", strict=True))
        except csv.Error as error:
            may_go_on = numbered is not None and len(held) < MAX_LINES_OF_FIELD
            if may_go_on and "unexpected end of data" in str(error):
                continue  # a quoted field that goes on in the next line
            record = held[0][1].rstrip("\r\n").split("\t")
            if len(record) != num_columns:
                raise InputError(f"{path}, line {held[0][0]}: not valid TSV ({error})") from None
            again.extendleft(reversed(held[1:]))
            held = held[:1]
        num_columns = num_columns or len(record)
        yield held[-1][0], record
        held = []


def _table(
    path: Path,
    wanted: Wanted,
    names: Sequence[str] | None,
    records: Iterator[tuple[int, list[str]]],
) -> Iterator[Row]:
    columns = list(names) if names else next(((record) for _, record in records), [])
    _check(wanted, columns, f"{path}, line 1")
    for line, record in records:
        if len(record) > len(columns):
            raise InputError(
                f"{path}, line {line}: {len(record)} cells where there are {len(columns)} columns; "
                "quote texts that hold the separator"
            )
        if record:
            cells = [*record, *[""] * (len(columns) - len(record))]
            yield Row(dict(zip(columns, cells, strict=False)), f"{path}, line {line}")


def _read_parquet(path: Path, wanted: Wanted, names: Sequence[str] | None) -> Iterator[Row]:
    try:
        from pyarrow import lib, parquet
    except ImportError:
        raise missing_library(path, "pyarrow") from None
    source = io.BytesIO(open_bytes(path).read()) if is_compressed(path) else path
    number = 0
    try:
        table = parquet.ParquetFile(source)
        _check(wanted, table.schema_arrow.names, f"{path}, line 1")
        for batch in table.iter_batches(batch_size=1024, columns=list(wanted) or None):
            for values in batch.to_pylist():
                number += 1
                cells = {name: "" if value is None else value for name, value in values.items()}
                yield Row(cells, f"{path}, row {number}")
    except lib.ArrowInvalid as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}") from None


ROW_FORMATS: dict[str, Callable[[Path, Wanted, Sequence[str] | None], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
"""How a file of each suffix is read; each may also be .gz or .zst."""


def _check(wanted: Wanted, there: Iterable[str], place: str) -> None:
    names = list(there)
    for column, setting in wanted.items():
        if column not in names:
            listed = ", ".join(f"'{name}'" for name in names) or "none"
            near = did_you_mean(column, names) if names else ""
            hint = near if "did you mean" in near else ""
            raise InputError(
                f"{place}: no field '{column}'; fields there: {listed} (set {setting}){hint}"
            )

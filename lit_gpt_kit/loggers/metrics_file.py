"""Reading metrics.csv, whole or cut off by a crash; without Lightning, so that it takes no time."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

FILE = "metrics.csv"
STEP = "step"


@dataclass(frozen=True)
class MetricsFile:
    """What a metrics.csv holds.

    Attributes:
        columns: their names as they stand there, `step` first.
        rows: step -> the cells that are filled, as text, in the order of the file.
        num_broken_lines: lines that were left out, since they are not whole.
    """

    columns: Sequence[str]
    rows: Mapping[int, Mapping[str, str]]
    num_broken_lines: int


def read_metrics(path: Path) -> MetricsFile:
    """All whole lines of a metrics.csv, be it of a run that is being written or that was killed."""
    text = path.read_text(encoding="utf-8", errors="replace")
    # Without its line end even a line with all its columns may lack digits.
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(StringIO(whole))
    columns = list(reader.fieldnames or [STEP])
    if STEP not in columns:  # something else altogether
        return MetricsFile([STEP], {}, text.count("\n"))
    rows: dict[int, dict[str, str]] = {}
    num_broken_lines = int(len(whole) < len(text))
    for row in reader:
        if _is_whole(row):
            rows[int(row[STEP])] = {name: cell for name, cell in row.items() if cell}
        else:
            num_broken_lines += 1
    return MetricsFile(columns, rows, num_broken_lines)


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """A cell that is missing is None, and cells too many stand under the name None."""
    if None in row or None in row.values() or not row.get(STEP, "").isdigit():
        return False
    try:
        _ = [float(cell) for cell in row.values() if cell]
    except ValueError:
        return False
    return True

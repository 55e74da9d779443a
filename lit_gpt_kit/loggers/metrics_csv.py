"""metrics.csv: one row per logged step, all metrics."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.loggers.metrics_file import FILE, STEP, read_metrics


class MetricsCSV(Logger):
    """Writes `RUN_DIR/metrics.csv`: the column `step` counts finished optimiser steps.

    What is logged at the same step stands in one row. A run that is continued takes up the rows it
    finds, less those of steps that it is about to repeat.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / FILE
        self._rows: dict[int, dict[str, str]] | None = None
        self._columns: list[str] = [STEP]
        self._num_columns_on_disk = 0

    @property
    def name(self) -> str:
        """Nothing: what Lightning puts below name and version goes into the run folder itself."""
        return ""

    @property
    def version(self) -> str:
        """Nothing; see `name`."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @property
    def rows(self) -> list[dict[str, str]]:
        """What was logged so far, by step; a metric that a row lacks is not in it."""
        return [row for _, row in sorted((self._rows or {}).items())]

    @rank_zero_only
    def go_on_after(self, step: int) -> None:
        """Take up the rows up to `step`, with which a checkpoint was written; drop all later ones.

        Without this call the first step that is logged decides, whose row is begun anew.
        """
        self._rows = self._read_rows_before(step + 1)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the metrics to the row of the step that has just been finished."""
        number = 0 if step is None else step + 1  # Lightning counts the steps before this one
        if self._rows is None:
            self._rows = self._read_rows_before(number)
        values = {name: f"{value:.7g}" for name, value in metrics.items() if name != "epoch"}
        row = self._rows.get(number)
        if row is not None and values.items() <= row.items():
            return  # a step that was logged before its checkpoint was written is logged again
        is_new_row = row is None
        self._rows.setdefault(number, {STEP: str(number)}).update(values)
        added = sorted(set(values) - set(self._columns))
        self._columns.extend(added)
        if is_new_row and not added and self._num_columns_on_disk == len(self._columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                self._writer(file).writerow(self._rows[number])
        else:
            self._write_all()

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the run folder's config.yaml holds them."""

    def _read_rows_before(self, step: int) -> dict[int, dict[str, str]]:
        """The rows of a run that is continued; a half-written last line is left out."""
        if not self.path.exists():
            return {}
        found = read_metrics(self.path)
        self._columns = list(found.columns)
        return {number: dict(row) for number, row in found.rows.items() if number < step}

    def _write_all(self) -> None:
        assert self._rows is not None
        text = StringIO(newline="")
        writer = self._writer(text)
        writer.writeheader()
        writer.writerows(row for _, row in sorted(self._rows.items()))
        write_atomically(self.path, text.getvalue())
        self._num_columns_on_disk = len(self._columns)

    def _writer(self, file: Any) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")

"""PredictionWriter: what `predict` returns, a row a line, as JSON or CSV."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import says_when_full

NUMBER = "row"
"""The column of a row's number; without it rows are written as they come."""


class PredictionWriter(BasePredictionWriter):
    """Writes the columns that `predict_step` returns, tensors or lists, row by row.

    Where one of them is `row`, the numbers of the rows, these are written in order, into one file,
    which appears when all ranks are done; rows of a negative number are left out. On one device a
    row waits in memory for those before it, on several for the end. Else each rank writes its rows
    as they come, and ranks other than the first add their number to the file's name.

    Args:
        path: the file: .jsonl, or .csv where the columns hold no tokens.

    Attributes:
        num_rows: how many this rank has written.
        paths: the files of all ranks.

    Raises:
        InputError: the suffix is another.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        if self.path.suffix not in (".jsonl", ".csv"):
            raise InputError(f"{path} is of no format to write predictions in; use .jsonl or .csv")
        self.num_rows = 0
        self.paths = [self.path]
        self._numbered: dict[int, dict[str, Any]] = {}

    @property
    def _unfinished(self) -> Path:
        return self.path.with_name(f".{self.path.name}.unfinished")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew; what an older file holds is lost with the first row.

        Raises:
            InputError: there cannot be such a file.
        """
        if stage == "predict":
            # Ranks that named the folder after the time may have named two.
            self.path = trainer.strategy.broadcast(self.path)
            self.paths = [self.path]
            for rank in range(1, trainer.world_size):
                self.paths.append(self.path.with_stem(f"{self.path.stem}-{rank}"))
            self.path = self.paths[trainer.global_rank]
            if self.path.is_dir():
                raise InputError(f"{self.path} is a folder; name a file for the predictions")
            parent = self.path.parent
            if parent.exists() and not parent.is_dir():
                raise InputError(f"{self.path} cannot be written: {parent} is a file")
            parent.mkdir(parents=True, exist_ok=True)
            self.num_rows, self._numbered = 0, {}

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Any],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Add the batch's rows."""
        columns = {
            name: values.tolist() if isinstance(values, Tensor) else values
            for name, values in prediction.items()
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if NUMBER not in columns:
            self._append(self.path, rows)
            return
        self.paths = self.paths[:1]
        self._numbered |= {row[NUMBER]: row for row in rows if row[NUMBER] >= 0}
        if trainer.world_size == 1:
            self._append(self._unfinished, list(self._take_next()))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the numbered rows that are left, of all ranks."""
        shares = [self._numbered]
        if trainer.world_size > 1:
            shares = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, self._numbered)
        if trainer.is_global_zero:
            # Ranks that share a copy of the model have the same rows.
            by_number = {number: row for share in shares for number, row in share.items()}
            self._append(self._unfinished, [by_number[number] for number in sorted(by_number)])
            if self._unfinished.exists():
                self._unfinished.replace(self.path)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave no file that is not whole."""
        with suppress(OSError):
            self._unfinished.unlink()

    def _take_next(self) -> Iterator[dict[str, Any]]:
        """The rows before which none is missing."""
        number = self.num_rows
        while number in self._numbered:
            yield self._numbered.pop(number)
            number += 1

    def _append(self, path: Path, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        text = self._format(rows, has_header=self.num_rows == 0)
        with (
            says_when_full(path.parent),
            path.open("a" if self.num_rows else "w", encoding="utf-8") as file,
        ):
            file.write(text)
        self.num_rows += len(rows)

    def _format(self, rows: list[dict[str, Any]], has_header: bool) -> str:
        if self.path.suffix == ".jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        flat = [_flatten(row) for row in rows]
        text = StringIO(newline="")
        writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
        if has_header:
            writer.writeheader()
        writer.writerows(flat)
        return text.getvalue()


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    """A row of plain cells: a column for each entry of a mapping, a list's parts with ; between."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells |= {f"{name}.{key}": part for key, part in value.items()}
        elif isinstance(value, list):
            if any(isinstance(part, (list, dict)) for part in value):
                raise InputError(f"'{name}' of a row is no cell of a table; write .jsonl")
            cells[name] = ";".join(map(str, value))
        else:
            cells[name] = value
    return cells

"""PredictionWriter: what `predict` returns, a row a line, as JSON or CSV."""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import says_when_full, write_atomically

NUMBER = "row"
"""The column of a row's number; without it rows are written as they come."""


class PredictionWriter(BasePredictionWriter):
    """Writes the columns that `predict_step` returns, tensors or lists, row by row.

    Where one of them is `row`, the numbers of the rows, these are written in order, into one file,
    when all ranks are done; rows of a negative number are left out. Else each rank writes its rows
    as they come, and ranks other than the first add their number to the file's name.

    Args:
        path: the file: .jsonl, or .csv where the columns hold no tokens.

    Raises:
        InputError: the suffix is another.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        if self.path.suffix not in (".jsonl", ".csv"):
            raise InputError(f"{path} is of no format to write predictions in; use .jsonl or .csv")
        self.num_rows = 0
        self._numbered: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew; what an older file holds is lost with the first row.

        Raises:
            InputError: there cannot be such a file.
        """
        if stage == "predict":
            # Ranks that named the folder after the time may have named two.
            self.path = trainer.strategy.broadcast(self.path)
            if trainer.global_rank:
                name = f"{self.path.stem}-{trainer.global_rank}{self.path.suffix}"
                self.path = self.path.with_name(name)
            if self.path.is_dir():
                raise InputError(f"{self.path} is a folder; name a file for the predictions")
            parent = self.path.parent
            if parent.exists() and not parent.is_dir():
                raise InputError(f"{self.path} cannot be written: {parent} is a file")
            parent.mkdir(parents=True, exist_ok=True)
            self.num_rows, self._numbered = 0, []

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
        if NUMBER in columns:
            self._numbered += [row for row in rows if row[NUMBER] >= 0]
            return
        text = self._format(rows, has_header=self.num_rows == 0)
        with (
            says_when_full(self.path.parent),
            self.path.open("a" if self.num_rows else "w", encoding="utf-8") as file,
        ):
            file.write(text)
        self.num_rows += len(rows)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the numbered rows of all ranks."""
        shares = [self._numbered]
        if trainer.world_size > 1:
            shares = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, self._numbered)
        # Ranks that share a copy of the model have the same rows.
        by_number = {row[NUMBER]: row for share in shares for row in share}
        rows = [by_number[number] for number in sorted(by_number)]
        if rows and trainer.is_global_zero:
            write_atomically(self.path, self._format(rows, has_header=True))
            self.num_rows = len(rows)

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

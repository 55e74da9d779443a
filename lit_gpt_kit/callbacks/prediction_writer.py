"""PredictionWriter: what `predict` returns, as one JSON object a row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor


class PredictionWriter(BasePredictionWriter):
    """Writes the tensors that `predict_step` returns, row by row, as JSON lines.

    Args:
        path: the file; ranks other than the first add their number to its name.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        self.num_rows = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin an empty file."""
        if stage == "predict":
            # Ranks that named the folder after the time may have named two.
            self.path = trainer.strategy.broadcast(self.path)
            if trainer.global_rank:
                name = f"{self.path.stem}-{trainer.global_rank}{self.path.suffix}"
                self.path = self.path.with_name(name)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Add the batch's rows."""
        columns = {name: tensor.tolist() for name, tensor in prediction.items()}
        with self.path.open("a", encoding="utf-8") as file:
            for row in zip(*columns.values(), strict=True):
                file.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")
                self.num_rows += 1

"""Made-up outputs of classifiers, and somebody's own LightningModule, for the tests beside this."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Rows = tuple[Tensor, Tensor]


def one_of(num_classes: int, num_rows: int = 600, sharpness: float = 2.0, seed: int = 0) -> Rows:
    """Logits that are mostly right, of equally frequent classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    logits = torch.randn(num_rows, num_classes, generator=generator)
    logits[torch.arange(num_rows), labels] += 1.0
    return logits * sharpness, labels


def imbalanced(num_rows: int = 2000) -> Rows:
    """Three classes, of which the last is rare."""
    generator = torch.Generator().manual_seed(1)
    share = torch.tensor([0.85, 0.13, 0.02])
    labels = torch.multinomial(share, num_rows, replacement=True, generator=generator)
    logits = torch.randn(num_rows, 3, generator=generator) + share.log()
    logits[torch.arange(num_rows), labels] += 1.5
    return logits, labels


def several_of(num_classes: int = 4, num_rows: int = 500) -> Rows:
    """Labels of which a row has several, or none."""
    generator = torch.Generator().manual_seed(2)
    labels = (torch.rand(num_rows, num_classes, generator=generator) < 0.3).long()
    return torch.randn(num_rows, num_classes, generator=generator) + 2.0 * labels - 1.0, labels


def in_batches(rows: Rows, batch_size: int) -> Any:
    return DataLoader(TensorDataset(*rows), batch_size)


class Replay(LightningModule):
    """Returns the logits that stand in the batch."""

    def validation_step(self, batch: Rows, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": batch[0], "labels": batch[1]}

    test_step = validation_step


class Linear(LightningModule):
    """A classifier of another project."""

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_classes)

    def training_step(self, batch: Rows, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: Rows, batch_idx: int) -> dict[str, Tensor]:
        logits = self.layer(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.log("val/loss", loss)
        return {"loss": loss, "logits": logits, "labels": batch[1]}

    def test_step(self, batch: Rows, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self.layer(batch[0]), "labels": batch[1]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)

"""The mean loss of a split, exact over any batches and any number of processes."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Adds up losses and what they are divided by."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        # float64: a sum over millions of rows would lose its last digits in float32.
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: Tensor) -> None:
        """Add a batch: its summed loss, and the number that it is summed over."""
        self.total += loss
        self.count += count

    def compute(self) -> Tensor:
        """The mean."""
        return (self.total / self.count).float()

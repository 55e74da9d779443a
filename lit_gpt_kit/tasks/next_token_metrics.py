"""Loss, perplexity and bits per byte over a whole text."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class NextTokenMetrics(Metric):
    """Adds up negative log-likelihood, tokens and bytes; right over any number of processes."""

    full_state_update = False
    nll: Tensor
    num_targets: Tensor
    num_bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        # float64: a sum over millions of tokens would lose its last digits in float32.
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_targets", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_bytes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nll: Tensor, num_targets: Tensor, num_bytes: Tensor) -> None:
        """Add a batch: summed nats, targets, and the bytes of text that the targets stand for."""
        self.nll += nll
        self.num_targets += num_targets
        self.num_bytes += num_bytes

    def compute(self) -> dict[str, Tensor]:
        """`loss` in nats per token, `perplexity`, and `bits_per_byte` where there are bytes."""
        loss = self.nll / self.num_targets
        result = {"loss": loss, "perplexity": loss.exp()}
        if self.num_bytes > 0:
            result["bits_per_byte"] = self.nll / math.log(2) / self.num_bytes
        return {name: value.float() for name, value in result.items()}

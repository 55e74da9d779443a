"""What a process has for itself: which share of a batch, and whether the whole model."""

from typing import Literal

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor


def data_share(trainer: Trainer) -> tuple[int, int]:
    """The number of this rank among those that share the rows of a batch, and their number.

    Ranks that hold one copy of the model between them (tensor parallel) have the same rows.
    """
    share = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
    return int(share["rank"]), int(share["num_replicas"])


def reduce_over_ranks(trainer: Trainer, values: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """Values of all ranks as one, in place where the ranks are torch's.

    Lightning's own `reduce` has all ranks meet first, for which the host waits for its device.
    """
    if not (dist.is_available() and dist.is_initialized()):
        reduced: Tensor = trainer.strategy.reduce(values, reduce_op=how)
        return reduced
    dist.all_reduce(values, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
    return values


def shares_model(trainer: Trainer) -> bool:
    """Whether no process holds the whole model, so that none can use it without the others."""
    return isinstance(trainer.strategy, ModelParallelStrategy)

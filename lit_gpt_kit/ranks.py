"""What a process has for itself: which share of a batch, and whether the whole model."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy


def data_share(trainer: Trainer) -> tuple[int, int]:
    """The number of this rank among those that share the rows of a batch, and their number.

    Ranks that hold one copy of the model between them (tensor parallel) have the same rows.
    """
    share = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
    return int(share["rank"]), int(share["num_replicas"])


def shares_model(trainer: Trainer) -> bool:
    """Whether no process holds the whole model, so that none can use it without the others."""
    return isinstance(trainer.strategy, ModelParallelStrategy)

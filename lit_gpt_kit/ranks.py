"""Which share of a batch a process has."""

from lightning.pytorch import Trainer


def data_share(trainer: Trainer) -> tuple[int, int]:
    """The number of this rank among those that share the rows of a batch, and their number.

    Ranks that hold one copy of the model between them (tensor parallel) have the same rows.
    """
    share = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
    return int(share["rank"]), int(share["num_replicas"])

"""Arguments of the Trainer with which a run would train on other rows than it says, or uphill."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_warn

from lit_gpt_kit.data.base import DataModule
from lit_gpt_kit.errors import InputError


def check_trainer(trainer: Trainer) -> None:
    """Refuse what would train wrongly without a word; once the data module is set up.

    Raises:
        InputError: names the argument, its value and what to give instead.
    """
    clip: Any = trainer.gradient_clip_val
    if clip is not None and clip < 0:
        raise InputError(
            f"trainer.gradient_clip_val={clip} must be at least 0: a negative norm would turn the "
            "gradient round, and train uphill"
        )
    if trainer.precision == "16-true":
        rank_zero_warn(
            "precision=16-true: float16 has no number as small as AdamW's eps of 1e-8, without "
            "which its steps come to divide by 0; use 16-mixed or bf16-true, or an eps from 1e-6 on"
        )
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise InputError(
            "GradientAccumulationScheduler changes how many rows a step reads, by which rows are "
            "numbered: some would be read twice, others never; leave it out, and have steps grow "
            "with TextDataModule's batch_warmup"
        )
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        _check_length(trainer)


def _check_length(trainer: Trainer) -> None:
    """An epoch is a whole number of steps: which rows are next follows from the steps taken."""
    overfits = trainer.overfit_batches > 0  # type: ignore[attr-defined]
    name = "overfit_batches" if overfits else "limit_train_batches"
    limit: Any = trainer.limit_train_batches
    if limit == 0:
        raise InputError(f"trainer.{name}={limit} leaves nothing to train on; leave it out")
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if (limit == 1.0 and isinstance(limit, float)) or not isinstance(data, DataModule):
        return
    num_batches, at_once = len(data.train_dataloader()), data.batches_per_step
    read = min(limit, num_batches) if isinstance(limit, int) else int(limit * num_batches)
    if read % at_once:
        nearest = [n for n in (read - read % at_once, read - read % at_once + at_once) if n]
        raise InputError(
            f"trainer.{name}={limit} ends an epoch after {read} micro-batches, within a step of "
            f"{at_once}: the rest of its rows would never be read; nearest: "
            f"{' and '.join(map(str, nearest))}"
        )

"""Where a Trainer stands within its steps; a step is what one call of the optimiser ends."""

import math
from typing import Any

from lightning.pytorch import Trainer


def step_is_done(trainer: Trainer, batch_idx: int) -> bool:
    """Whether micro-batch `batch_idx` is the last of its step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def step_is_logged(trainer: Trainer, step: int) -> bool:
    """Whether the Trainer logs after `step` steps."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
    return every > 0 and step % every == 0


def validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the Trainer validates after this batch."""
    if not trainer.enable_validation or not trainer.val_check_batch:
        return False
    done = batch_idx + 1
    if trainer.check_val_every_n_epoch is None:
        done = trainer.fit_loop.total_batch_idx + 1
    elif (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch:
        return False
    return trainer.should_stop or bool(done % trainer.val_check_batch == 0)


def validates_by_batches(trainer: Trainer) -> bool:
    """Whether validations are told in batches: not by the clock, nor never."""
    return bool(trainer.enable_validation and trainer.val_check_batch) and (
        trainer.val_check_batch != math.inf
    )


def count_validations(trainer: Trainer, num_batches: int) -> int:
    """How many validations a run of so many batches has that `validates_by_batches`."""
    every: Any = trainer.val_check_batch
    num_in_epoch: Any = trainer.num_training_batches
    if trainer.check_val_every_n_epoch is None or num_in_epoch == math.inf:
        return int(num_batches // every)
    epochs, rest = divmod(num_batches, num_in_epoch)
    whole, others = divmod(epochs, trainer.check_val_every_n_epoch)
    is_in_one = others + 1 == trainer.check_val_every_n_epoch
    return int(whole * (num_in_epoch // every) + (rest // every if is_in_one else 0))


def count_batches(loops: dict[str, Any], batches_per_step: int) -> None:
    """Rewrite how many batches Lightning has seen, where each step has another number of them.

    It tells the batches that end a step by that count alone: in a run that stopped after 5 steps of
    one batch and goes on with 2, it would end a step after one of them.

    Args:
        loops: the fit loop's state in a checkpoint, saved when a step was complete.
        batches_per_step: in the run that goes on.
    """
    batches = loops["epoch_loop.batch_progress"]
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    before, rest = divmod(batches["total"]["ready"], max(1, steps["total"]["completed"]))
    if rest or before in (0, batches_per_step):
        return  # another data module's last step of an epoch may have been smaller
    for counts in (batches["total"], batches["current"]):
        num_open = counts["ready"] - counts["completed"]  # 1 within the hooks of a batch, else 0
        ready = counts["ready"] // before * batches_per_step
        counts |= {"ready": ready, "started": ready, "processed": ready}
        counts["completed"] = ready - num_open

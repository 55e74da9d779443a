"""Where a Trainer stands within its steps; a step is what one call of the optimiser ends."""

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

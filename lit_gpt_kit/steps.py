"""Where a Trainer stands within its steps; a step is what one call of the optimiser ends."""

from lightning.pytorch import Trainer


def step_is_done(trainer: Trainer, batch_idx: int) -> bool:
    """Whether micro-batch `batch_idx` is the last of its step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def step_is_logged(trainer: Trainer, step: int) -> bool:
    """Whether the Trainer logs after `step` steps."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
    return every > 0 and step % every == 0

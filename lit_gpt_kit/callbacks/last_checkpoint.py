"""LastCheckpoint: the state to go on from, in last.ckpt."""

import copy
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.steps import step_is_done, validation_follows


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt after each validation, at the end of training, and when asked to.

    Lightning's ModelCheckpoint writes its last.ckpt only together with a best one, so that it may
    be far from the last state.

    Args:
        folder: where last.ckpt goes.
        every_n_steps: also after so many optimiser steps; 0 is never.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 0) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._saved_at_step = -1
        self._loops_before_validation: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder: ranks that named it after the time may have named two."""
        self.path = trainer.strategy.broadcast(self.path)

    def save(self, trainer: Trainer) -> None:
        """Write last.ckpt, unless it holds this step already."""
        is_trial = getattr(trainer, "fast_dev_run", False)  # which writes nothing
        if is_trial or trainer.global_step == self._saved_at_step:
            return
        trainer.save_checkpoint(self.path)
        self._saved_at_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where `every_n_steps` says so or the run stops, and the step is complete.

        Of a run that stops in mid-epoch Lightning later says that the epoch is complete.
        """
        is_due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        stops = trainer.should_stop or trainer.global_step == trainer.max_steps
        is_due = is_due or (stops and not validation_follows(trainer, batch_idx))
        if is_due and step_is_done(trainer, batch_idx):
            self.save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where the loops stood."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._loops_before_validation = copy.deepcopy(trainer.fit_loop.state_dict())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, even if this step is saved: its score is new."""
        self._loops_before_validation = None
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._saved_at_step = -1
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self.save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """In mid-validation, save the loops as they stood before it.

        The validation's sums are not part of a checkpoint, so it could not go on from the middle.
        """
        if self._loops_before_validation is not None:
            checkpoint["loops"]["fit_loop"] = self._loops_before_validation

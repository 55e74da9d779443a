"""LastCheckpoint: the state to go on from, in last.ckpt."""

import copy
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.checkpoints.native import LAST_FILE
from lit_gpt_kit.steps import count_batches, step_is_done, validation_follows


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt after each validation, at the end of training, and when asked to.

    Lightning's ModelCheckpoint writes its last.ckpt only together with a best one, so that it may
    be far from the last state.

    Args:
        folder: where last.ckpt goes; by default checkpoints/ in the run folder.
        every_n_steps: also after so many optimiser steps; 0 is never.

    Attributes:
        path: last.ckpt, once a run has begun.
    """

    path: Path

    def __init__(self, folder: str | Path | None = None, every_n_steps: int = 0) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self._saved_at_step = -1
        self._loops_before_validation: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder: ranks that named it after the time may have named two."""
        folder = self.folder or Path(trainer.default_root_dir) / "checkpoints"
        self.path = trainer.strategy.broadcast(Path(folder) / LAST_FILE)

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
        if not step_is_done(trainer, batch_idx) or validation_follows(trainer, batch_idx):
            return
        if _stops(trainer) or self._is_due(trainer):
            # Lightning logs a step after this hook, and a run that goes on does not log it again.
            trainer._logger_connector.update_train_step_metrics()
            self.save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where the loops stand, and save where `every_n_steps` says so."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._loops_before_validation = _loops_with_validation_begun(trainer)
            # Of a run that has taken its last step Lightning believes that it is over.
            if self._is_due(trainer) and not _stops(trainer):
                self.save(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that the validation is complete: the best checkpoint is saved before the last."""
        self._loops_before_validation = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, even if this step is saved: its score is new."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._saved_at_step = -1
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self.save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        return self.every_n_steps > 0 and trainer.global_step % self.every_n_steps == 0

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """In mid-validation, save the loops as they stood at its start.

        The validation's sums are not part of a checkpoint, so it could not go on from the middle.
        """
        if self._loops_before_validation is not None:
            checkpoint["loops"]["fit_loop"] = self._loops_before_validation

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count the batches behind the run as it accumulates them now."""
        if trainer.state.fn == TrainerFn.FITTING:
            count_batches(checkpoint["loops"]["fit_loop"], trainer.accumulate_grad_batches)


def _stops(trainer: Trainer) -> bool:
    return trainer.should_stop or trainer.global_step == trainer.max_steps


def _loops_with_validation_begun(trainer: Trainer) -> dict[str, Any]:
    """The state of the loops, with one batch of the validation under way.

    So Lightning repeats the validation when it goes on from there; of one that was not begun it
    believes that it is over.
    """
    total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.processed  # nothing is left of one that is now repeated
    loops = copy.deepcopy(trainer.fit_loop.state_dict())
    for counts in ("total", "current"):
        for event in ("ready", "started"):
            loops["epoch_loop.val_loop.batch_progress"][counts][event] += 1
    return loops

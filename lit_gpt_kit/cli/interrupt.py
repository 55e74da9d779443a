"""Ctrl-C: finish the step, save, and stop; a second one stops at once."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.steps import step_is_done, validation_follows


class StopOnInterrupt(Callback):
    """Turns the first Ctrl-C into a checkpoint at the end of the step, then an interruption.

    Args:
        last_checkpoint: saves.
    """

    def __init__(self, last_checkpoint: LastCheckpoint) -> None:
        self._last_checkpoint = last_checkpoint
        self._was_asked = False
        self._outer_handler: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            self._outer_handler = signal.signal(signal.SIGINT, self._ask)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        if self._outer_handler is not None:
            signal.signal(signal.SIGINT, self._outer_handler)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop, if the step is complete and no validation belongs to it."""
        if step_is_done(trainer, batch_idx) and not validation_follows(trainer, batch_idx):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, now that the validation is complete: a checkpoint could not go on in its middle."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._stop_if_asked(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        self.on_fit_end(trainer, pl_module)

    def _ask(self, signal_number: int, frame: FrameType | None) -> None:
        if self._was_asked:
            raise KeyboardInterrupt
        self._was_asked = True
        print(
            "\nstopping after this step (Ctrl-C again: at once)",
            file=sys.stderr,
            flush=True,
        )

    def _stop_if_asked(self, trainer: Trainer) -> None:
        # Every rank gets the terminal's Ctrl-C, but perhaps in different steps; all must agree.
        was_asked = self._was_asked
        if trainer.world_size > 1:
            was_asked = trainer.strategy.reduce_boolean_decision(was_asked, all=False)
        if was_asked:
            if trainer.training:
                # Lightning logs a step after this hook, which it will not come to.
                trainer._logger_connector.update_train_step_metrics()
            if not trainer.sanity_checking:
                self._last_checkpoint.save(trainer)
            raise KeyboardInterrupt

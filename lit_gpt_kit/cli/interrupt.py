"""Ctrl-C and what schedulers send: finish the step, save, and stop."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.ranks import reduce_over_ranks
from lit_gpt_kit.steps import step_is_done, validation_follows

SCHEDULERS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""What a cluster's scheduler sends before it kills (SLURM's --signal, torchrun, Kubernetes)."""


BROADCAST = "_broadcast_sigterm_tensor"
"""What Lightning asks its epoch loop to do."""


class StopOnInterrupt(Checkpoint):
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into a checkpoint at the end of the step, then a stop.

    Lightning has what saves come behind all other callbacks, in the order given; this one comes
    last of them, so that a stop takes no other's turn: the best checkpoint is kept before it.

    A second Ctrl-C stops at once. It is enough that one of several processes gets the signal. Under
    SLURM with Lightning's automatic requeueing, Lightning answers all but Ctrl-C.

    Args:
        last_checkpoint: saves.

    Attributes:
        signal_number: which signal stopped the run; 0 where none did.
    """

    def __init__(self, last_checkpoint: LastCheckpoint) -> None:
        self._last_checkpoint = last_checkpoint
        self.signal_number = 0
        self._outer_handler: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to Ctrl-C."""
        if threading.current_thread() is threading.main_thread():
            self._outer_handler = signal.signal(signal.SIGINT, self._ask)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to schedulers."""
        self.on_train_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to schedulers, in Lightning's place, which gives these signals back at the end.

        Its own handlers stop in mid-step, and those of two ranks wait for one another.
        """
        environment = trainer._accelerator_connector.cluster_environment
        requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        if threading.current_thread() is threading.main_thread() and not requeues:
            for number in SCHEDULERS:
                signal.signal(number, self._ask)
            loop: Any = trainer.fit_loop.epoch_loop
            if hasattr(loop, BROADCAST):
                # It tells all ranks, before each micro-batch, of a signal that never comes to it,
                # and has the host wait for the device (PL#21487).
                setattr(loop, BROADCAST, lambda: None)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        self.stop_listening()

    def stop_listening(self) -> None:
        """Give Ctrl-C back; as often as one likes.

        After a fault Lightning puts back, behind `on_exception`, what it found: this one's handler.
        """
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
        self.stop_listening()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        why = "Ctrl-C again: at once" if number == signal.SIGINT else signal.Signals(number).name
        print(f"\nstopping after this step ({why})", file=sys.stderr, flush=True)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            # Perhaps one rank alone was asked, or each in a step of its own; all must agree.
            number = torch.tensor(self.signal_number, device=trainer.strategy.root_device)
            self.signal_number = int(reduce_over_ranks(trainer, number, "max"))
        if not self.signal_number:
            return
        if trainer.training:
            # Lightning logs a step after this hook, which it will not come to.
            trainer._logger_connector.update_train_step_metrics()
        if not trainer.sanity_checking:
            self._last_checkpoint.save(trainer)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            # All ranks end by themselves; its observer would kill this one when others are gone.
            launcher.procs.clear()
        raise KeyboardInterrupt


@contextmanager
def gives_ctrl_c_back(trainer: Trainer) -> Iterator[None]:
    """Have nobody listen to Ctrl-C behind the body, whatever became of it."""
    try:
        yield
    finally:
        for listener in _listeners(trainer):
            listener.stop_listening()


def status_of_interrupted(trainer: Trainer) -> int:
    """128 and the signal's number, as a shell says it: never 0, for the run is not done."""
    numbers = (listener.signal_number for listener in _listeners(trainer))
    return 128 + (next(numbers, 0) or signal.SIGINT)


def _listeners(trainer: Trainer) -> list[StopOnInterrupt]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return [callback for callback in callbacks if isinstance(callback, StopOnInterrupt)]

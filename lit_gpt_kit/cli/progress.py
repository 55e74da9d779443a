"""Progress: a bar in a terminal, elsewhere plain lines at the steps that are logged."""

import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.optim.schedules import WarmupSchedule
from lit_gpt_kit.steps import step_is_done, step_is_logged

SHOWN = ("train/loss", "train/tokens_per_second")


class StepBar(RichProgressBar):
    """Lightning's bar, which counts steps here, not epochs, and shows no version number."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


class ProgressLines(ProgressBar):
    """A line a logged step, and one a validation."""

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True
        self._started = self._first_share = 0.0

    def disable(self) -> None:
        """Print nothing (on every rank but the first)."""
        self.is_enabled = False

    def enable(self) -> None:
        """Print."""
        self.is_enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started, self._first_share = time.monotonic(), _share_done(trainer) or 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print the step, if it is a logged one."""
        if step_is_done(trainer, batch_idx) and step_is_logged(trainer, trainer.global_step):
            self._print(trainer, SHOWN, self._time_left(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the validation metrics."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            names = [name for name in trainer.callback_metrics if name.startswith("val/")]
            self._print(trainer, names, "")

    def _print(self, trainer: Trainer, names: Any, ending: str) -> None:
        if not self.is_enabled:
            return
        metrics = trainer.callback_metrics
        values = [f"{name} {_short(float(metrics[name]))}" for name in names if name in metrics]
        total = "" if trainer.max_steps < 0 else f"/{trainer.max_steps}"
        line = "  ".join([f"step {trainer.global_step}{total}", *values, ending]).rstrip()
        print(line, file=sys.stderr, flush=True)

    def _time_left(self, trainer: Trainer) -> str:
        share = _share_done(trainer)
        if share is None or share <= self._first_share:
            return ""
        seconds = (time.monotonic() - self._started) / (share - self._first_share) * (1 - share)
        return f"{timedelta(seconds=round(seconds))} left"


def _share_done(trainer: Trainer) -> float | None:
    """How far the run has come; None where it has no end."""
    total = trainer.estimated_stepping_batches
    shares = [] if total == float("inf") else [trainer.global_step / max(1, total)]
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    own = [s.share_done for s in schedules if isinstance(s, WarmupSchedule) and s.unit != "steps"]
    return max([*shares, *(share for share in own if share is not None)], default=None)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"

"""Progress: a bar in a terminal, elsewhere plain lines at the steps that are logged."""

import math
import sys
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import ProgressColumn
from rich.progress import Task as Row
from rich.table import Column
from rich.text import Text

from lit_gpt_kit.callbacks.throughput import Throughput
from lit_gpt_kit.cli.time_left import TimeLeft, clock_text
from lit_gpt_kit.steps import step_is_done, step_is_logged

SHOWN = ("train/loss", "train/tokens_per_second")
REDRAWS_PER_SECOND = 10
NARROW = 60
"""Columns of a terminal that have room for the steps, the time left and a loss alone."""


class Words(ProgressColumn):
    """Words that stay on their line; a bar beside them gives way where there is little room.

    Args:
        of: says them for a row.
    """

    def __init__(self, of: Callable[[Row], str]) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self.of = of

    def render(self, task: Row) -> Text:
        """The words."""
        return Text(self.of(task))


class RunProgress(ProgressBar):
    """Progress of any kind that foretells the end of the whole run."""

    _time_left: TimeLeft | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._time_left = TimeLeft(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on after what may have been a validation."""
        if self._time_left is not None:
            self._time_left.start_batch()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep its time apart."""
        super().on_validation_start(trainer, pl_module)
        if self._time_left is not None:
            self._time_left.start_validation()


class StepBar(RunProgress, RichProgressBar):
    """Lightning's bar, made one of the whole run: its steps, the time left, tokens/s, the losses.

    Lightning's own begins again with each epoch, counts batches, and foretells the epoch's end.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=REDRAWS_PER_SECOND)
        self._count = self._speed = self._losses = ""

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """What stands in a row, as far as the terminal has room."""
        theme = self.theme
        columns = [
            Words(lambda row: row.description),
            Words(self._count_of),
            CustomBarColumn(
                complete_style=theme.progress_bar,
                finished_style=theme.progress_bar_finished,
                pulse_style=theme.progress_bar_pulse,
            ),
            Words(self._time_left_of),
            Words(lambda row: self._speed if self._is_of_training(row) else ""),
            Words(lambda row: self._losses if self._is_of_training(row) else ""),
        ]
        if self._is_narrow:
            del columns[4], columns[0]
        return columns

    @property
    def _is_narrow(self) -> bool:
        return self._console is not None and self._console.width < NARROW

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the row as it is; it is the run's."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        if self._time_left is not None:
            self._time_left.end_batch(trainer)
        self._update_metrics(trainer, pl_module)
        self._show(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stand still above what is said at the end."""
        self._stop_progress()

    def _update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_disabled:
            return
        metrics = self.get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        losses = [
            f"{name.removeprefix('train/')} {value:.3f}"
            for name, value in metrics.items()
            if isinstance(value, float)
        ]
        self._losses = "  ".join(losses[:1] if self._is_narrow else losses)

    def _show(self, trainer: Trainer) -> None:
        if self.is_disabled or self.progress is None or self._time_left is None:
            return
        if self.train_progress_bar_id is None:
            total = math.inf if self._time_left.share_done is None else 1.0
            self.train_progress_bar_id = self._add_task(total, "training")
        self._count = _count_steps(trainer, self._time_left)
        self._speed = _speed(trainer)
        share = self._time_left.share_done
        done = trainer.global_step if share is None else share
        self.progress.update(self.train_progress_bar_id, completed=done)
        self.refresh()

    def _is_of_training(self, row: Row) -> bool:
        return row.id == self.train_progress_bar_id

    def _count_of(self, row: Row) -> str:
        if self._is_of_training(row):
            return self._count
        total = "" if row.total is None or math.isinf(row.total) else f"/{row.total:,.0f}"
        return f"{row.completed:,.0f}{total}"

    def _time_left_of(self, row: Row) -> str:
        seconds = row.time_remaining
        if self._is_of_training(row):
            seconds = None if self._time_left is None else self._time_left.seconds()
        return "" if seconds is None else f"{clock_text(seconds)} left"


class ProgressLines(RunProgress):
    """A line a logged step, and one a validation."""

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True

    def disable(self) -> None:
        """Print nothing (on every rank but the first)."""
        self.is_enabled = False

    def enable(self) -> None:
        """Print."""
        self.is_enabled = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print the step, if it is a logged one."""
        assert self._time_left is not None
        self._time_left.end_batch(trainer)
        if step_is_done(trainer, batch_idx) and step_is_logged(trainer, trainer.global_step):
            seconds = self._time_left.seconds()
            ending = "" if seconds is None else f"{clock_text(seconds)} left"
            self._print(trainer, SHOWN, ending)

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
        line = "  ".join(
            [f"step {_count_steps(trainer, self._time_left)}", *values, ending]
        ).rstrip()
        print(line, file=sys.stderr, flush=True)


def _count_steps(trainer: Trainer, time_left: TimeLeft | None) -> str:
    total = None if time_left is None else time_left.num_steps
    return f"{trainer.global_step}{'' if total is None else f'/{total}'}"


def _speed(trainer: Trainer) -> str:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # a connector's
    rates = [c.tokens_per_second for c in callbacks if isinstance(c, Throughput)]
    return f"{rates[0]:,.0f} tokens/s" if rates and rates[0] else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"

"""How long a run still takes, from its first steps on, whether it began or goes on."""

import math
import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from lit_gpt_kit.optim.schedules import WarmupSchedule
from lit_gpt_kit.steps import count_validations, validates_by_batches

MEMORY_SECONDS = 120.0
"""About so much training time makes the pace: long enough to be steady, and short enough to forget
a slow start."""
FORWARD_SHARE = 1 / 3
"""Of a training batch's time, what a batch of validation takes until one has been timed."""
ALMOST = 1e-6


class TimeLeft:
    """Foretells the end of a fit by the pace since it began, or since it went on.

    The pace is that of the last minutes of training. The time of validations, with what is done
    within them, is kept apart and added for each that is still to come, so that the end is not put
    off whenever one is due. The first batch counts for nothing: it compiles, and fills caches.

    Attributes:
        share_done: how far the run has come, from 0 to 1; None where it has no end.
        num_steps: at which step it ends; None where something else ends it.

    Args:
        trainer: training begins, or goes on, where it stands.
    """

    share_done: float | None = None

    def __init__(self, trainer: Trainer) -> None:
        steps = trainer.estimated_stepping_batches
        self._steps_in_all = float(steps) if steps > 0 else math.inf
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        own = (s for s in schedules if isinstance(s, WarmupSchedule) and s.unit != "steps")
        self._schedule = next(own, None)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # a connector's
        timers = (c for c in callbacks if isinstance(c, Timer))  # what trainer.max_time adds
        self._timer = next((t for t in timers if t.time_remaining() is not None), None)
        ends_otherwise = self._schedule is not None and trainer.max_steps < 0
        is_known = self._steps_in_all < math.inf and not ends_otherwise
        self.num_steps = int(self._steps_in_all) if is_known else None
        self._step, self._num_micro_batches = trainer.global_step, 0
        self._position = float(self._step)
        self._last_end: float | None = None
        self._is_validating = False
        self._pauses: list[float] = []
        self._trained = self._uncounted = 0.0
        # Of the last minutes of training: seconds, and the steps and the share that they brought.
        self._seconds = self._steps = self._gained = 0.0
        self._share = self._share_of_schedule()
        self._end: float | None = None
        self._estimate(trainer)

    def start_batch(self) -> None:
        """Keep a validation apart that lies between this batch and the last."""
        if self._is_validating and self._last_end is not None:
            now = time.monotonic()
            self._pauses.append(now - self._last_end)
            self._last_end = now
        self._is_validating = False

    def start_validation(self) -> None:
        """Note that what follows is no training."""
        self._is_validating = True

    def end_batch(self, trainer: Trainer) -> None:
        """Count a micro-batch."""
        now = time.monotonic()
        is_step = trainer.global_step != self._step
        self._step = trainer.global_step
        self._num_micro_batches = 0 if is_step else self._num_micro_batches + 1
        is_first, before = self._last_end is None, self._last_end or now
        self._last_end, self._uncounted = now, self._uncounted + now - before
        if self._counts_tokens and not is_step:
            return  # its tokens are counted when the step is done
        position = self._step + self._num_micro_batches / trainer.accumulate_grad_batches
        share = self._share_of_schedule()
        if not is_first:
            kept = math.exp(-self._uncounted / MEMORY_SECONDS)
            self._trained += self._uncounted
            self._seconds = kept * self._seconds + self._uncounted
            self._steps = kept * self._steps + position - self._position
            self._gained = kept * self._gained + share - self._share
        self._position, self._share, self._uncounted = position, share, 0.0
        self._estimate(trainer)

    def seconds(self) -> float | None:
        """What is left now; None while nobody knows, or where the run has no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def _estimate(self, trainer: Trainer) -> None:
        limits, shares = [], []
        steps_left = self._steps_in_all - self._position
        if steps_left < math.inf:
            shares.append(self._position / self._steps_in_all)
        if self._schedule is not None:
            shares.append(self._share)
        if self._counts_tokens and self._gained > 0:
            steps_left = min(steps_left, (1 - self._share) * self._steps / self._gained)
        elif self._schedule is not None and not self._counts_tokens:
            limits.append((1 - self._share) * self._schedule.total)
        if self._timer is not None:
            remaining = self._timer.time_remaining() or 0.0
            shares.append(1 - remaining / (remaining + self._timer.time_elapsed()))
            limits.append(remaining)
        if steps_left < math.inf and self._steps > 0:
            training = steps_left * self._seconds / self._steps
            limits.append(training + self._seconds_of_validations(trainer, steps_left, training))
        self._end = time.monotonic() + min(limits) if limits else None
        self.share_done = min(1.0, max(shares)) if shares else None

    def _seconds_of_validations(
        self, trainer: Trainer, steps_left: float, training_left: float
    ) -> float:
        if not validates_by_batches(trainer):  # by the clock, or never
            return training_left * sum(self._pauses) / self._trained
        accumulated = trainer.accumulate_grad_batches
        done = round(self._position * accumulated)
        end = done + int(steps_left * accumulated + ALMOST)
        # A validation that falls on this batch has not begun yet.
        count = count_validations(trainer, end) - count_validations(trainer, max(0, done - 1))
        if self._pauses:
            return count * sum(self._pauses) / len(self._pauses)
        num_batches = sum(trainer.num_val_batches)
        if num_batches == math.inf:
            return 0.0
        batch = self._seconds / self._steps / accumulated
        return count * num_batches * batch * FORWARD_SHARE

    @property
    def _counts_tokens(self) -> bool:
        return self._schedule is not None and self._schedule.unit == "tokens"

    def _share_of_schedule(self) -> float:
        return 0.0 if self._schedule is None else self._schedule.share_done or 0.0


def clock_text(seconds: float) -> str:
    """A length of time for people: "0:41:07", and from a day on "3d 04h"."""
    whole = round(seconds)
    days, hours = divmod(whole // 3600, 24)
    if days:
        return f"{days}d {hours:02}h"
    return f"{hours}:{whole // 60 % 60:02}:{whole % 60:02}"

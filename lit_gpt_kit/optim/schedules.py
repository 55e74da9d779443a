"""Learning-rate schedules: a warm-up, then cosine, linear or constant with a decay at the end.

Each multiplies the optimiser's own learning rate by a factor between 0 and 1. How far a run has
come is counted in steps, in tokens, or in seconds on the clock.
"""

import math
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_gpt_kit.errors import InputError


class WarmupSchedule(LRScheduler):
    """Linear warm-up, then the full rate; a subclass overrides `decay_factor` to let it fall.

    A run that is as long as its tokens or its seconds ends when they are used up. Whoever trains
    tells the schedule of them (`advance`), as every task of this package does.

    Args:
        optimizer: whose learning rates are scheduled.
        warmup_steps: steps in which the rate rises in a line to its full height.
        total_steps: steps of the whole run; the task fills in the Trainer's where None.
        min_factor: share of the full rate that is left at the end.
        total_tokens: tokens of the whole run, over all devices, instead of steps.
        total_seconds: seconds of the whole run, validation included, instead of steps.

    Raises:
        InputError: a number is out of range, or the run is given two lengths.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        min_factor: float = 0.0,
        total_tokens: int | None = None,
        total_seconds: float | None = None,
    ) -> None:
        if warmup_steps < 0:
            raise InputError(f"warmup_steps={warmup_steps} must be at least 0")
        if not 0.0 <= min_factor <= 1.0:
            raise InputError(f"min_factor={min_factor} must be between 0 and 1")
        lengths = {"total_steps": total_steps, "total_tokens": total_tokens,
                   "total_seconds": total_seconds}  # fmt: skip
        given = {name: length for name, length in lengths.items() if length is not None}
        for name, length in given.items():
            if not length > 0:
                raise InputError(f"{name}={length} must be above 0")
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are both given; a run has one length")
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.min_factor = min_factor
        self.total_tokens, self.total_seconds = total_tokens, total_seconds
        # So far, and as the warm-up ended; both, since a continued run may be counted otherwise.
        self._done = {"tokens": 0.0, "seconds": 0.0}
        self._start = dict(self._done)
        super().__init__(optimizer)

    @property
    def unit(self) -> Literal["steps", "tokens", "seconds"]:
        """What the run's length is counted in."""
        if self.total_tokens is not None:
            return "tokens"
        return "steps" if self.total_seconds is None else "seconds"

    @property
    def is_over(self) -> bool:
        """The tokens or seconds are used up; a run counted in steps ends by itself."""
        return self.unit != "steps" and self.share_done == 1.0

    @property
    def share_done(self) -> float | None:
        """How far the run has come, from 0 to 1; None where nobody knows how long it is."""
        if self.unit == "steps":
            return (
                None if self.total_steps is None else min(1.0, self.last_epoch / self.total_steps)
            )
        return min(1.0, self._done[self.unit] / self.total)

    def advance(self, num_tokens: int, seconds: float) -> None:
        """Count a step's tokens and seconds, before `step()`; the same on every rank."""
        self._done["tokens"] += num_tokens
        self._done["seconds"] += seconds
        if self.last_epoch < self.warmup_steps:
            self._start = dict(self._done)

    def factor(self, step: int) -> float:
        """Share of the full learning rate at `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.unit == "steps":
            if self.total_steps is None:
                return 1.0
            return self.decay_factor(float(step), float(self.warmup_steps), float(self.total_steps))
        return self.decay_factor(self._done[self.unit], self._start[self.unit], self.total)

    @property
    def total(self) -> float:
        """The tokens or seconds of a run that is not counted in steps."""
        return float(self.total_tokens or self.total_seconds or 0)

    def decay_factor(self, position: float, start: float, total: float) -> float:
        """Share of the full learning rate after the warm-up; all of it, unless overridden.

        Args:
            position: how far the run has come, in its unit.
            start: where the warm-up ended.
            total: where the run ends.
        """
        return 1.0

    def progress(self, position: float, start: float, end: float) -> float:
        """How far `position` is from `start` (0) to `end` (1)."""
        if position <= start:
            return 0.0
        return 1.0 if position >= end else (position - start) / (end - start)

    def get_lr(self) -> list[float | Any]:
        """The learning rate of each parameter group."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def set_total_steps(self, total_steps: int) -> None:
        """Fill in the length of the run where none was given."""
        if self.unit == "steps" and self.total_steps is None:
            self.total_steps = total_steps
            self._write_rates()

    def set_total_seconds(self, total_seconds: float) -> None:
        """Likewise, where the run has no number of steps."""
        if self.unit == "steps" and self.total_steps is None:
            self.total_seconds = total_seconds
            self._write_rates()

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands; what it looks like comes from the configuration."""
        place = {"last_epoch": self.last_epoch, "_step_count": self._step_count}
        return place | {"done": dict(self._done), "start": dict(self._start)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, with the rates that are configured now."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["_step_count"]
        self._done = dict(state_dict.get("done", self._done))
        self._start = dict(state_dict.get("start", self._start))
        self._write_rates()

    def _write_rates(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates


class WarmupCosine(WarmupSchedule):
    """Half a cosine from the full rate down to `min_factor` of it (Loshchilov and Hutter 2017)."""

    def decay_factor(self, position: float, start: float, total: float) -> float:
        """1 at the end of the warm-up, `min_factor` at the end."""
        done = self.progress(position, start, total)
        return self.min_factor + (1 - self.min_factor) * 0.5 * (1 + math.cos(math.pi * done))


class WarmupLinear(WarmupSchedule):
    """A straight line from the full rate down to `min_factor` of it."""

    def decay_factor(self, position: float, start: float, total: float) -> float:
        """1 at the end of the warm-up, `min_factor` at the end."""
        done = self.progress(position, start, total)
        return 1 - (1 - self.min_factor) * done


class WarmupStableDecay(WarmupSchedule):
    """The full rate until the last part of the run, then a line down (Hu et al. 2024, MiniCPM).

    Args:
        optimizer: whose learning rates are scheduled.
        warmup_steps: steps in which the rate rises in a line to its full height.
        total_steps: steps of the whole run; the task fills in the Trainer's where None.
        min_factor: share of the full rate that is left at the end.
        total_tokens: tokens of the whole run, over all devices, instead of steps.
        total_seconds: seconds of the whole run, validation included, instead of steps.
        decay_fraction: share of the run in which the rate falls.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        min_factor: float = 0.0,
        total_tokens: int | None = None,
        total_seconds: float | None = None,
        decay_fraction: float = 0.2,
    ) -> None:
        if not 0.0 <= decay_fraction <= 1.0:
            raise InputError(f"decay_fraction={decay_fraction} must be between 0 and 1")
        self.decay_fraction = decay_fraction
        super().__init__(
            optimizer, warmup_steps, total_steps, min_factor, total_tokens, total_seconds
        )

    def decay_factor(self, position: float, start: float, total: float) -> float:
        """1 until the decay begins, `min_factor` at the end."""
        decay_start = total * (1 - self.decay_fraction)
        if self.unit != "seconds":
            decay_start = float(round(decay_start))
        done = self.progress(position, max(start, decay_start), total)
        return 1 - (1 - self.min_factor) * done

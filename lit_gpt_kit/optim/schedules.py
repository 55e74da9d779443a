"""Learning-rate schedules: a warm-up, then cosine, linear or constant with a decay at the end.

Each multiplies the optimiser's own learning rate by a factor between 0 and 1 that depends on the
step alone. The number of steps is the Trainer's unless given.
"""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_gpt_kit.errors import InputError


class WarmupSchedule(LRScheduler):
    """Linear warm-up, then the full rate; a subclass overrides `decay_factor` to let it fall.

    Args:
        optimizer: whose learning rates are scheduled.
        warmup_steps: steps in which the rate rises in a line to its full height.
        total_steps: steps of the whole run; the task fills in the Trainer's where None.
        min_factor: share of the full rate that is left at the end.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        min_factor: float = 0.0,
    ) -> None:
        if warmup_steps < 0:
            raise InputError(f"warmup_steps={warmup_steps} must be at least 0")
        if not 0.0 <= min_factor <= 1.0:
            raise InputError(f"min_factor={min_factor} must be between 0 and 1")
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.min_factor = min_factor
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Share of the full learning rate at `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.total_steps is None:
            return 1.0
        return self.decay_factor(step, self.total_steps)

    def decay_factor(self, step: int, total_steps: int) -> float:
        """Share of the full learning rate after the warm-up; all of it, unless overridden."""
        return 1.0

    def progress(self, step: int, start: int, end: int) -> float:
        """How far `step` is from `start` (0) to `end` (1)."""
        return min(1.0, (step - start) / max(1, end - start))

    def get_lr(self) -> list[float | Any]:
        """The learning rate of each parameter group."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def set_total_steps(self, total_steps: int) -> None:
        """Fill in the length of the run where it was not given."""
        if self.total_steps is None:
            self.total_steps = total_steps
            self._write_rates()

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands; what it looks like comes from the configuration."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, with the rates that are configured now."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["_step_count"]
        self._write_rates()

    def _write_rates(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates


class WarmupCosine(WarmupSchedule):
    """Half a cosine from the full rate down to `min_factor` of it (Loshchilov and Hutter 2017)."""

    def decay_factor(self, step: int, total_steps: int) -> float:
        """1 at the end of the warm-up, `min_factor` at `total_steps`."""
        done = self.progress(step, self.warmup_steps, total_steps)
        return self.min_factor + (1 - self.min_factor) * 0.5 * (1 + math.cos(math.pi * done))


class WarmupLinear(WarmupSchedule):
    """A straight line from the full rate down to `min_factor` of it."""

    def decay_factor(self, step: int, total_steps: int) -> float:
        """1 at the end of the warm-up, `min_factor` at `total_steps`."""
        done = self.progress(step, self.warmup_steps, total_steps)
        return 1 - (1 - self.min_factor) * done


class WarmupStableDecay(WarmupSchedule):
    """The full rate until the last part of the run, then a line down (Hu et al. 2024, MiniCPM).

    Args:
        optimizer: whose learning rates are scheduled.
        warmup_steps: steps in which the rate rises in a line to its full height.
        total_steps: steps of the whole run; the task fills in the Trainer's where None.
        min_factor: share of the full rate that is left at the end.
        decay_fraction: share of the run in which the rate falls.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        min_factor: float = 0.0,
        decay_fraction: float = 0.2,
    ) -> None:
        if not 0.0 <= decay_fraction <= 1.0:
            raise InputError(f"decay_fraction={decay_fraction} must be between 0 and 1")
        self.decay_fraction = decay_fraction
        super().__init__(optimizer, warmup_steps, total_steps, min_factor)

    def decay_factor(self, step: int, total_steps: int) -> float:
        """1 until the decay begins, `min_factor` at `total_steps`."""
        decay_start = max(self.warmup_steps, round(total_steps * (1 - self.decay_fraction)))
        done = max(0.0, self.progress(step, decay_start, total_steps))
        return 1 - (1 - self.min_factor) * done

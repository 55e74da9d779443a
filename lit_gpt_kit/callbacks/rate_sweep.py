"""RateSweep: the loss under learning rates that rise from step to step, to choose one by.

Lightning's learning-rate finder cannot be used here. It gives every group of parameters one rate,
where MuonAdamW's groups have rates of different size; its loss is that of a step's last
micro-batch; it takes the slope by the rate itself, which among rates that grow by a factor is
steepest at the smallest; and it stops at four times the best loss, which a cross-entropy never
reaches.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.steps import step_is_done

SMOOTHING = 0.9
"""What a loss weighs in that of its neighbour, smoothed; to the square in the next, and so on."""
FIRST_POINTS = 5
"""Few losses are smoothed yet: neither a slope nor an end is seen in them."""
WORSE = 0.2
"""The sweep is over when the smoothed loss is above the first by this share of it."""


@dataclass(frozen=True)
class SweptPoint:
    """A step of the sweep.

    Attributes:
        factor: what the configured rates were multiplied by.
        loss: of the whole global batch, after the step.
    """

    factor: float
    loss: float


class RateSweep(Callback):
    """Multiplies the rates of all groups by a factor that rises from step to step.

    The groups keep their ratios, the learning-rate schedule is off, and a step is an optimiser's
    step with all its micro-batches. The sweep stops where the loss leaves its range. Afterwards,
    also when it is interrupted, weights, optimiser and schedule are as they were before.

    Give the Trainer `max_steps=num_steps + 1`: the loss after the last step is that of the next.

    Args:
        lowest: the factor of the first step.
        highest: the factor of the last one.
        num_steps: how many steps.

    Attributes:
        points: the steps taken.
        rates: those configured, of each group.

    Raises:
        InputError: the range is empty, or has too few steps.
    """

    def __init__(self, lowest: float = 1e-3, highest: float = 100.0, num_steps: int = 100) -> None:
        if not 0.0 < lowest < highest:
            raise InputError(f"lowest={lowest} must be above 0 and below highest={highest}")
        if num_steps <= 2 * FIRST_POINTS:
            raise InputError(f"num_steps={num_steps} must be above {2 * FIRST_POINTS}")
        self.factors: list[float] = np.geomspace(lowest, highest, num_steps).tolist()
        self.points: list[SweptPoint] = []
        self._before: tuple[Any, Any, Any, int] | None = None
        self.rates: list[float] = []
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what is there."""
        if not hasattr(pl_module, "step_loss"):
            raise InputError(
                f"{type(pl_module).__name__} does not say what the loss of a step is; the sweep "
                "needs a task of lit_gpt_kit, or one with step_loss"
            )
        (optimizer,) = trainer.optimizers
        self._before = (
            copy.deepcopy(pl_module.state_dict()),
            copy.deepcopy(optimizer.state_dict()),
            trainer.strategy.lr_scheduler_configs,
            getattr(pl_module, "num_tokens_seen", 0),
        )
        trainer.strategy.lr_scheduler_configs = []
        # A schedule has moved the rates already; what was configured it keeps beside them.
        groups = optimizer.param_groups
        self.rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
        self.points, self._step = [], 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rates of the step."""
        factor = self.factors[min(self._step, len(self.factors) - 1)]
        groups = trainer.optimizers[0].param_groups
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss, which the step before has led to."""
        if not step_is_done(trainer, batch_idx):
            return
        task: Any = pl_module
        loss, norm = float(task.step_loss), float(getattr(task, "step_gradient_norm", 0.0))
        if not math.isfinite(norm):
            loss = math.nan  # no step is taken with such a gradient
        if self._step:
            self.points.append(SweptPoint(self.factors[self._step - 1], loss))
        self._step += 1
        if is_over(self.points) or self._step > len(self.factors):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put everything back."""
        if self._before is None:
            return
        weights, state, schedules, num_tokens = self._before
        self._before = None
        pl_module.load_state_dict(weights)
        trainer.optimizers[0].load_state_dict(state)
        for group, saved in zip(
            trainer.optimizers[0].param_groups, state["param_groups"], strict=True
        ):
            group["lr"] = saved["lr"]  # the task lets what is configured win
        trainer.strategy.lr_scheduler_configs = schedules
        task: Any = pl_module
        task.num_tokens_seen = num_tokens

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put everything back."""
        self.on_train_end(trainer, pl_module)


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Each with its neighbours on both sides, that a fall is seen where it is and not later."""
    places = np.arange(len(losses))
    weights = SMOOTHING ** np.abs(places[:, None] - places)
    smoothed: NDArray[np.float64] = weights @ np.array(losses) / weights.sum(axis=1)
    return smoothed


def is_over(points: Sequence[SweptPoint]) -> bool:
    """Whether the loss has left its range for good."""
    if points and not math.isfinite(points[-1].loss):
        return True
    if len(points) <= FIRST_POINTS:
        return False
    losses = [point.loss for point in points]
    first = smooth(losses[:FIRST_POINTS])[-1]
    return bool(smooth(losses)[-1] > first + WORSE * abs(first))


def suggest_factors(points: Sequence[SweptPoint]) -> tuple[float, float] | None:
    """The factors at which the smoothed loss falls fastest, and at which it is lowest.

    Fastest by the logarithm of the factor, before the lowest point: what fastai and Lightning
    suggest, on the safe side. At the lowest point learning and breaking are in balance (Smith 2017,
    section 3.3), so a good rate lies between the two. None where the loss falls nowhere.
    """
    finite = [point for point in points if math.isfinite(point.loss)]
    if len(finite) <= 2 * FIRST_POINTS:
        return None
    losses = [point.loss for point in finite]
    # What goes through the roof at the end must not reach back.
    smoothed = smooth(np.minimum(losses, max(losses[:FIRST_POINTS])).tolist())[FIRST_POINTS:]
    factors = [point.factor for point in finite[FIRST_POINTS:]]
    lowest = int(smoothed.argmin())
    slopes = np.gradient(smoothed, np.log(factors))[: lowest + 1]
    steepest = int(slopes.argmin())
    return (factors[steepest], factors[lowest]) if slopes[steepest] < 0 else None

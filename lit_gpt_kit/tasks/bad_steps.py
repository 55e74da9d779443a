"""BadSteps: a step whose loss or gradient is not finite changes nothing."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lit_gpt_kit.optim.muon import MuonAdamW


@dataclass(frozen=True)
class BadStep:
    """A step that was not finite.

    Attributes:
        number: the step, counted from 1.
        loss: of the whole global batch.
        gradient_norm: before clipping.
    """

    number: int
    loss: float
    gradient_norm: float

    @property
    def complaint(self) -> str:
        """What was not finite."""
        values = {"loss": self.loss, "gradient norm": self.gradient_norm}
        return " and ".join(f"{k} {v}" for k, v in values.items() if not math.isfinite(v))


class BadSteps:
    """Keeps steps that are not finite from changing anything, and counts those in a row.

    Loss and norm are of the whole global batch, so that all ranks decide alike. On a GPU the host
    does not wait for the step: a fused optimiser (and MuonAdamW) reads on the device whether to
    take it, and the host hears of it one step later. Other optimisers take gradients that were
    looked at on the host.

    Attributes:
        num_in_a_row: bad steps up to the last that is known.
        num_losses: of these, how many from the last one back had a loss that was not finite.
        last: the last bad step.
    """

    def __init__(self) -> None:
        self.num_in_a_row = self.num_losses = 0
        self.last: BadStep | None = None
        self._unread: tuple[int, Tensor, Any] | None = None

    @property
    def weights_are_the_cause(self) -> bool:
        """Whether no loss was finite, on whatever rows: then the weights were not before either."""
        return self.num_losses == self.num_in_a_row > 1

    def check(self, optimizer: Optimizer, step: int, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Have the optimiser pass over the step, if it is bad.

        Args:
            optimizer: about to take the step.
            step: its number, counted from 1.
            loss: of the step; None where nobody knows it.
            norm: of all gradients.

        Returns:
            Whether the step is taken, on the device.
        """
        values = torch.stack([norm if loss is None else loss.to(norm), norm])
        is_finite = values.isfinite().all()
        self.read()
        # The first step of all is looked at on the host: fused SGD would keep momentum of nothing.
        if reading_waits(values) and optimizer.state and _takes_found_inf(optimizer):
            fused: Any = optimizer
            fused.grad_scale, fused.found_inf = None, (~is_finite).float()
            on_host = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.current_stream().record_event() if values.is_cuda else None
            self._unread = step, on_host, arrived
        elif self._count(step, values):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None  # without a gradient no optimiser touches it
        return is_finite

    def read(self) -> None:
        """Learn of the step before, whose values have come from the device by now."""
        if self._unread is None:
            return
        step, values, arrived = self._unread
        self._unread = None
        if arrived is not None:
            arrived.synchronize()
        self._count(step, values)

    def _count(self, step: int, values: Tensor) -> bool:
        loss, norm = values.tolist()
        if math.isfinite(loss) and math.isfinite(norm):
            self.num_in_a_row = self.num_losses = 0
            return False
        self.num_in_a_row += 1
        self.num_losses = 0 if math.isfinite(loss) else self.num_losses + 1
        self.last = BadStep(step, loss, norm)
        rank_zero_warn(
            f"step {step} is passed over, weights and optimiser stay: {self.last.complaint}"
        )
        return True


def reading_waits(values: Tensor) -> bool:
    """Whether to look at them the host would have to wait for the device."""
    return values.is_cuda


def _takes_found_inf(optimizer: Optimizer) -> bool:
    """Whether it passes over a step by itself where `found_inf` is 1, as torch's fused ones do."""
    return isinstance(optimizer, MuonAdamW) or has_own_scaling(optimizer)


def has_own_scaling(optimizer: Optimizer) -> bool:
    """Whether torch's gradient scaler leaves unscaling and infinities to it, as to fused ones."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))

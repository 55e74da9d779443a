"""Batches that grow: how many rows a step reads is a pure function of its number."""

from dataclasses import dataclass

import numpy as np

from lit_gpt_kit.errors import InputError


@dataclass(frozen=True)
class BatchWarmup:
    """Small batches first: early gradients agree so well that few rows say what many would.

    The rows of a step grow in a line, `start` at a time (Brown et al. 2020, appendix B; why: their
    noise scale, McCandlish et al. 2018). So they do not depend on how a global batch is split: half
    the `start` and half the `batch_size` on twice the devices are the same rows.
    """

    start: int
    """Rows per device at the first step; `batch_size` is a multiple of it."""
    steps: int
    """Optimiser steps until batches are whole."""

    def __post_init__(self) -> None:
        """Refuse counts that count nothing.

        Raises:
            InputError: naming the value.
        """
        for name in ("start", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"batch_warmup.{name}={getattr(self, name)} must be at least 1")

    def check(self, batch_size: int) -> None:
        """Refuse a batch that the growth does not come out at.

        Raises:
            InputError: naming both numbers.
        """
        if batch_size % self.start:
            raise InputError(
                f"batch_size={batch_size} is not a multiple of batch_warmup.start={self.start}; "
                "batches grow by that many rows at a time"
            )

    def rows(self, step: int, batch_size: int) -> int:
        """Rows of a micro-batch of this step, from 0."""
        grown = batch_size // self.start - 1
        return self.start * (1 + min(step, self.steps) * grown // self.steps)

    def rows_before(self, step: int, batch_size: int) -> int:
        """Rows of one micro-batch of every earlier step, together."""
        num_sizes = np.arange(batch_size // self.start)
        # The step from which there are `start` rows more, for each time that happens.
        begins = -(-num_sizes * self.steps // max(1, len(num_sizes) - 1))
        return self.start * int(np.maximum(step - begins, 0).sum())

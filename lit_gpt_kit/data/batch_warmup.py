"""Batches that grow: how many rows a step reads is a pure function of its number."""

from dataclasses import dataclass

import numpy as np

from lit_gpt_kit.errors import InputError


@dataclass(frozen=True)
class BatchWarmup:
    """Small batches first: early gradients agree so well that few rows say what many would.

    The rows of a step grow in a line, `start` at a time (Brown et al. 2020, appendix B; why: their
    noise scale, McCandlish et al. 2018). They are rows of the global batch, so that no other split
    of it, over devices or micro-batches, is another warm-up.
    """

    start: int
    """Rows of the first step, over its micro-batches and all devices, which share them evenly; the
    global batch is a multiple of it."""
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

    def check(self, batch_size: int, batches_per_step: int = 1, num_ranks: int = 1) -> None:
        """Refuse a global batch that the growth does not come out at, or whose parts it does not.

        Args:
            batch_size: rows of a micro-batch.
            batches_per_step: micro-batches of a step, on each rank.
            num_ranks: ranks that share the rows of a step.

        Raises:
            InputError: naming the numbers.
        """
        num_parts = batches_per_step * num_ranks
        rows = batch_size * num_parts
        if rows % self.start:
            raise InputError(
                f"the {rows} rows of a step are not a multiple of batch_warmup.start={self.start}; "
                "batches grow by that many rows at a time"
            )
        if self.start % num_parts:
            nearest = next(n for n in range(num_parts, rows + 1, num_parts) if n >= self.start)
            raise InputError(
                f"batch_warmup.start={self.start} counts the rows of a whole step, which "
                f"{batches_per_step} micro-batches on {num_ranks} devices cannot share evenly; "
                f"make it a multiple of {num_parts}, such as {nearest}"
            )

    def rows(self, step: int, rows_per_step: int) -> int:
        """Rows of this step, from 0, of the `rows_per_step` that it will have."""
        grown = rows_per_step // self.start - 1
        return self.start * (1 + min(step, self.steps) * grown // self.steps)

    def rows_before(self, step: int, rows_per_step: int) -> int:
        """Rows of every earlier step, together."""
        num_sizes = np.arange(rows_per_step // self.start)
        # The step from which there are `start` rows more, for each time that happens.
        begins = -(-num_sizes * self.steps // max(1, len(num_sizes) - 1))
        return self.start * int(np.maximum(step - begins, 0).sum())

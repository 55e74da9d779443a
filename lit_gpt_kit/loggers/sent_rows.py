"""What W&B has of a run already, so that nothing is sent twice and nothing is missing."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lit_gpt_kit.loggers.wandb_file import NO_ROWS, LastRows


class SentRows:
    """The rows that W&B was sent, by this process and by those whose run goes on.

    Attributes:
        last: as of the arguments; whoever sends rows for an earlier process moves it on.

    Args:
        last: the end of what earlier processes sent.
        summary: W&B's, which has the last value of each metric; asked where `last` has no names.
    """

    def __init__(
        self,
        last: LastRows = NO_ROWS,
        summary: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.last = last
        self._summary = summary
        self._values: dict[str, tuple[int, float]] = {}

    def add(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a row that were not sent so far; they count as sent from now on.

        Args:
            step: the number of finished optimiser steps.
            metrics: name to value.
        """
        new = {name: v for name, v in metrics.items() if not self._has(step, name, v)}
        self._values |= {name: (step, v) for name, v in new.items() if isinstance(v, float)}
        return new

    def _has(self, step: int, name: str, value: Any) -> bool:
        # A step that was logged before its checkpoint was written is logged again.
        if self._values.get(name) == (step, value):
            return True
        if step != self.last.step:
            return step < self.last.step
        if self.last.names:
            return name in self.last.names
        # W&B says what came last of each; the validation of a step comes after its training.
        if name.startswith("train/"):
            return True
        known: Any = self._summary.get(name)
        is_number = isinstance(known, (int, float)) and isinstance(value, (int, float))
        return is_number and math.isclose(known, value, rel_tol=1e-5)

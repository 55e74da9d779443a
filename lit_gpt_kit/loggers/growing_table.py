"""A table of a W&B run that rows are added to."""

from collections.abc import Sequence
from typing import Any

MOST_INCREMENTS = 50
"""W&B shows the last hundred parts of a table."""


class GrowingTable:
    """Sends only the rows that are new.

    Args:
        columns: their names; the first holds the step.
        last_step: of the rows that W&B has of a run that goes on, -1 where it has none; None for a
            run that is new.
    """

    def __init__(self, columns: Sequence[str], last_step: int | None) -> None:
        self._columns: list[str | int] = list(columns)
        self._last_step = last_step
        self._table: Any = None
        self._num_sent = self._num_parts = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> Any:
        """W&B's table to send; None where nothing is new.

        Args:
            rows: all so far.
        """
        import wandb

        if self._table is None and self._last_step is not None:
            self._num_sent = sum(row[0] <= self._last_step for row in rows)
        if self._num_sent >= len(rows):
            return None
        if self._table is not None and self._num_parts < MOST_INCREMENTS:
            for row in rows[self._num_sent :]:
                self._table.add_data(*row)
        else:
            # W&B puts what is added to a run that goes on behind what it has.
            start = 0 if self._last_step is None else self._num_sent
            data = [list(row) for row in rows[start:]]
            self._table = wandb.Table(columns=self._columns, data=data, log_mode="INCREMENTAL")
            self._num_parts = 0
        self._num_sent, self._num_parts = len(rows), self._num_parts + 1
        return self._table

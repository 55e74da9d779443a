"""Batches of whole rows, rows of like length together."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lit_gpt_kit.data.order import Numbers, epoch_order, shuffle, steps_per_epoch

Collate = Callable[[Numbers], dict[str, Any]]
"""Row numbers -> a batch; the number -1 stands for a row on which nothing depends."""
FILLER = -1
BATCHES_SORTED = 64
"""Evaluation sorts rows by length within so many batches."""


class RowTrainLoader:
    """Endless training batches; batch n is a pure function of the seed and n.

    See `TrainLoader` for its length, and for why it has no state.

    Args:
        lengths: (rows,) tokens of each row.
        collate: makes a batch.
        batch_size: rows in a batch of this rank.
        seed: decides the order.
        rank, num_ranks: this rank's share of each global batch.
        batches_per_step: micro-batches of an optimiser step.
        first_batch: asked at the start of each iteration for the number of the next batch.
    """

    def __init__(
        self,
        lengths: Numbers,
        collate: Collate,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        batches_per_step: int = 1,
        first_batch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.lengths = lengths
        self.collate = collate
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.num_ranks = rank, num_ranks
        self.batches_per_step = batches_per_step
        self.first_batch = first_batch
        self._epoch: tuple[int, Numbers] | None = None

    @property
    def rows_per_step(self) -> int:
        """Rows of a step, over its micro-batches and all ranks."""
        return self.batch_size * self.num_ranks * self.batches_per_step

    def __len__(self) -> int:
        return steps_per_epoch(len(self.lengths), self.rows_per_step) * self.batches_per_step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Asked at the first batch and not before: Lightning makes an iterator before it has loaded
        # the checkpoint that says where training stands.
        for number in itertools.count(self.first_batch()):
            yield self.batch(number)

    def batch(self, number: int) -> dict[str, Any]:
        """The rows of micro-batch `number` that fall to this rank."""
        return self.collate(self.rows(number))

    def rows(self, number: int) -> Numbers:
        """Their numbers."""
        step, micro_batch = divmod(number, self.batches_per_step)
        start = (micro_batch * self.num_ranks + self.rank) * self.batch_size
        return self.rows_of_step(step)[start : start + self.batch_size]

    def rows_of_step(self, step: int) -> Numbers:
        """The numbers of the rows of a step, over its micro-batches and all ranks."""
        num_steps = steps_per_epoch(len(self.lengths), self.rows_per_step)
        epoch, step = divmod(step, num_steps)
        if self._epoch is None or self._epoch[0] != epoch:
            order = epoch_order(self.lengths, self.rows_per_step, self.seed, epoch)
            self._epoch = (epoch, order)
        rows: Numbers = self._epoch[1][step]
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Nothing; that it is here tells Lightning that a run may stop in mid-epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class RowEvalLoader:
    """Every row once. All ranks get the same number of batches; fillers make up for missing rows.

    Args:
        lengths: (rows,) tokens of each row.
        collate: makes a batch.
        batch_size: rows in a batch of this rank.
        rank, num_ranks: this rank's share.
    """

    def __init__(
        self,
        lengths: Numbers,
        collate: Collate,
        batch_size: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.collate = collate
        self.batch_size = batch_size
        self.rank, self.num_ranks = rank, num_ranks
        rows_at_once = batch_size * num_ranks
        num_rows = len(lengths)
        self._rows = np.full(-(-num_rows // rows_at_once) * rows_at_once, FILLER, dtype=np.int64)
        stretch = BATCHES_SORTED * rows_at_once
        for start in range(0, num_rows, stretch):
            by_length = np.argsort(lengths[start : start + stretch], kind="stable") + start
            self._rows[start : start + len(by_length)] = by_length
        # So that some batches, where a person limits their number, stand for all.
        order = shuffle(np.arange(len(self)), len(self), key=0)
        self._rows = self._rows.reshape(len(self), rows_at_once)[order].reshape(-1)

    def __len__(self) -> int:
        return len(self._rows) // (self.batch_size * self.num_ranks)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(len(self)):
            start = (number * self.num_ranks + self.rank) * self.batch_size
            yield self.collate(self._rows[start : start + self.batch_size])

"""Batches in order. Reading memory-mapped rows is quick, so no worker process is needed."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lit_gpt_kit.data.batch_warmup import BatchWarmup
from lit_gpt_kit.data.order import Numbers, row_starts, rows_per_epoch
from lit_gpt_kit.data.packing import Batch, TokenStream, pack_rows
from lit_gpt_kit.data.row_loader import FILLER


class TrainLoader:
    """Endless training batches; batch n is a pure function of the seed and n.

    Lightning takes any iterable with a length for a loader. Its length, the number of batches that
    Lightning calls an epoch, is a whole number of optimiser steps; an epoch of growing batches
    reads less than all rows once. An iterator starts where training stands, which is why it has no
    state to save.

    Args:
        stream: the training tokens.
        block_size: length of a row.
        batch_size: rows in a batch of this rank.
        seed: decides the order.
        isolate_documents: see `pack_rows`.
        rank, num_ranks: this rank's share of each global batch.
        batches_per_step: micro-batches of an optimiser step.
        first_batch: asked at the start of each iteration for the number of the next batch.
        batch_warmup: how steps grow; from the first on they are whole by default.
    """

    def __init__(
        self,
        stream: TokenStream,
        block_size: int,
        batch_size: int,
        seed: int,
        isolate_documents: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
        batches_per_step: int = 1,
        first_batch: Callable[[], int] = lambda: 0,
        batch_warmup: BatchWarmup | None = None,
    ) -> None:
        self.stream = stream
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        self.isolate_documents = isolate_documents
        self.rank, self.num_ranks = rank, num_ranks
        self.batches_per_step = batches_per_step
        self.first_batch = first_batch
        self.rows_per_step = batch_size * batches_per_step * num_ranks
        self.batch_warmup = batch_warmup or BatchWarmup(start=self.rows_per_step, steps=1)
        self.batch_warmup.check(batch_size, batches_per_step, num_ranks)

    def __len__(self) -> int:
        steps = rows_per_epoch(self.stream.num_tokens, self.block_size) // self.rows_per_step
        return max(1, steps) * self.batches_per_step

    def __iter__(self) -> Iterator[Batch]:
        # Asked at the first batch and not before: Lightning makes an iterator before it has loaded
        # the checkpoint that says where training stands.
        for number in itertools.count(self.first_batch()):
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """The rows of micro-batch `number` that fall to this rank."""
        step, micro_batch = divmod(number, self.batches_per_step)
        parts = self.samples_of_step(step).reshape(self.batches_per_step, self.num_ranks, -1)
        samples = parts[micro_batch, self.rank]
        starts = row_starts(samples, self.stream.num_tokens, self.block_size, self.seed)
        return pack_rows(self.stream, starts, self.block_size, self.isolate_documents)

    def samples_of_step(self, step: int) -> Numbers:
        """The numbers of the samples of a step, over its micro-batches and all ranks."""
        first = self.batch_warmup.rows_before(step, self.rows_per_step)
        return np.arange(first, first + self.batch_warmup.rows(step, self.rows_per_step))

    def rows_of_step(self, step: int) -> Numbers:
        """Where in the stream the rows of a step begin, over its micro-batches and all ranks."""
        samples = self.samples_of_step(step)
        return row_starts(samples, self.stream.num_tokens, self.block_size, self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Nothing; that it is here tells Lightning that a run may stop in mid-epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class EvalLoader:
    """Every token of a stream once, in order, each but the first as a target.

    All ranks get the same number of batches; where rows run out, rows without targets fill up. A
    batch has the numbers of its rows as `row`; those of fillers are -1.
    """

    def __init__(
        self,
        stream: TokenStream,
        block_size: int,
        batch_size: int,
        isolate_documents: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.stream = stream
        self.block_size = block_size
        self.batch_size = batch_size
        self.isolate_documents = isolate_documents
        self.rank, self.num_ranks = rank, num_ranks

    @property
    def _num_rows(self) -> int:
        return max(0, -(-(self.stream.num_tokens - 1) // self.block_size))

    def __len__(self) -> int:
        return -(-self._num_rows // (self.batch_size * self.num_ranks))

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self)):
            first_row = (number * self.num_ranks + self.rank) * self.batch_size
            rows = np.arange(first_row, first_row + self.batch_size)
            starts = rows * self.block_size
            batch = pack_rows(self.stream, starts, self.block_size, self.isolate_documents)
            numbers = np.where(rows < self._num_rows, rows, FILLER)
            yield {**batch, "row": torch.from_numpy(numbers)}

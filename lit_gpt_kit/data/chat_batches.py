"""Batches of conversations, padded, or packed so that they do not see each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_gpt_kit.data.bins import fill_bins
from lit_gpt_kit.data.chat_store import ChatStore
from lit_gpt_kit.data.row_loader import FILLER
from lit_gpt_kit.data.token_rows import PADDING_ID
from lit_gpt_kit.model.loss import IGNORE_INDEX

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ChatRows:
    """Some conversations of a store, none longer than a block.

    Attributes:
        store: where they lie.
        numbers: (rows,) which they are.
        lengths: (rows,) how many tokens of each the network reads: one fewer than there are, since
            the last one is a target alone.
    """

    store: ChatStore
    numbers: Numbers
    lengths: Numbers

    def shifted(self, row: int) -> tuple[Numbers, Numbers]:
        """What the network reads of a conversation, and what it is to guess at each token."""
        number, length = int(self.numbers[row]), int(self.lengths[row])
        ids = self.store.tokens.row(number)[: length + 1].astype(np.int64)
        is_target = self.store.is_target.row(number)[1 : length + 1]
        return ids[:-1], np.where(is_target, ids[1:], IGNORE_INDEX)

    def file_rows(self, rows: Numbers) -> list[int]:
        """Which rows of the files they are."""
        numbers: list[int] = self.numbers[rows].tolist()
        return numbers

    def collate(self, rows: Numbers) -> dict[str, Tensor]:
        """A batch of these conversations, padded at their ends to the longest.

        `row` says which row of the files each is, FILLER where it is none.
        """
        groups = [[row] if row != FILLER else [] for row in rows.tolist()]
        numbers = np.where(rows == FILLER, FILLER, self.numbers[rows])
        return {**_side_by_side(groups, self), "row": torch.from_numpy(numbers)}


@dataclass(frozen=True)
class PackedRows:
    """Conversations put together into rows of at most a block.

    Attributes:
        rows: the conversations.
        bins: for each packed row, which of them it holds.
    """

    rows: ChatRows
    bins: list[list[int]]

    @classmethod
    def of(cls, rows: ChatRows, block_size: int) -> "PackedRows":
        """As few rows of `block_size` as are easily found."""
        return cls(rows, fill_bins(rows.lengths, block_size))

    @property
    def lengths(self) -> Numbers:
        """(bins,) tokens in each."""
        return np.array([int(self.rows.lengths[bin_].sum()) for bin_ in self.bins], dtype=np.int64)

    def file_rows(self, bins: Numbers) -> list[int]:
        """Which rows of the files they hold."""
        rows = [row for number in bins.tolist() for row in self.bins[number]]
        return self.rows.file_rows(np.array(rows, dtype=np.int64))

    def collate(self, bins: Numbers) -> dict[str, Tensor]:
        """A batch of packed rows, with `document_ids` that keep conversations apart."""
        groups = [self.bins[number] if number != FILLER else [] for number in bins.tolist()]
        return _side_by_side(groups, self.rows, has_documents=True)


def _side_by_side(
    groups: Sequence[Sequence[int]], rows: ChatRows, has_documents: bool = False
) -> dict[str, Tensor]:
    longest = max([1, *(int(rows.lengths[list(group)].sum()) for group in groups)])
    shape = (len(groups), longest)
    input_ids = np.full(shape, PADDING_ID, dtype=np.int64)
    targets = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    # What pads a row's end is a document of its own, which nobody looks at.
    documents = np.full(shape, FILLER, dtype=np.int64)
    for place, group in enumerate(groups):
        start = 0
        for document, row in enumerate(group):
            ids, wanted = rows.shifted(row)
            here = slice(start, start + len(ids))
            input_ids[place, here], targets[place, here] = ids, wanted
            documents[place, here] = document
            start += len(ids)
    batch = {
        "input_ids": input_ids,
        "targets": targets,
        "target_positions": np.flatnonzero(targets != IGNORE_INDEX),
    }
    if has_documents:
        batch["document_ids"] = documents
    return {name: torch.from_numpy(array) for name, array in batch.items()}

"""Split: the conversations of a store that are read, and an account of those that are not."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lit_gpt_kit.data.chat_batches import ChatRows
from lit_gpt_kit.data.chat_store import ChatStore

TooLong = Literal["cut", "drop"]
"""What becomes of a conversation that is longer than a block."""


@dataclass(frozen=True)
class Split:
    """The conversations of a split, and what was left out of them.

    Attributes:
        sources: the files they come from.
        rows: those that are read.
        num_cut: how many of them lost their end.
        num_dropped: how many were too long and are left out.
        num_without_target: how many are left out since nothing in them would be learned.
        num_empty: how many rows are left out since a text in them is empty.
    """

    sources: list[str]
    rows: ChatRows
    num_cut: int
    num_dropped: int
    num_without_target: int
    num_empty: int

    @classmethod
    def of(
        cls,
        sources: list[str],
        store: ChatStore,
        numbers: NDArray[np.int64],
        block_size: int,
        too_long: TooLong,
    ) -> "Split":
        """Some conversations of a store, each at most a block long."""
        num_rows = len(numbers)
        numbers = numbers[store.tokens.lengths[numbers] > 0]
        num_empty = num_rows - len(numbers)
        lengths = store.tokens.lengths[numbers] - 1
        is_long = lengths > block_size
        num_dropped = 0
        if too_long == "drop":
            num_dropped = int(is_long.sum())
            numbers, lengths, is_long = numbers[~is_long], lengths[~is_long], is_long[~is_long]
        lengths = np.minimum(lengths, block_size)
        learns = np.array(
            [
                store.is_target.row(n)[1 : k + 1].any()
                for n, k in zip(numbers, lengths, strict=True)
            ],
            dtype=bool,
        )
        return cls(
            sources,
            ChatRows(store, numbers[learns], lengths[learns]),
            num_cut=int(is_long[learns].sum()),
            num_dropped=num_dropped,
            num_without_target=int((~learns).sum()),
            num_empty=num_empty,
        )

    def describe_losses(self) -> str:
        """What was cut and left out, for people; empty where nothing was."""
        counts = {
            "cut to the block": self.num_cut,
            "too long and dropped": self.num_dropped,
            "left out since no answer is left in them": self.num_without_target,
            "left out since a text is empty": self.num_empty,
        }
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)

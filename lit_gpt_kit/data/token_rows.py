"""Rows of tokens of any lengths, one behind the other in memory, and padded to batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PADDING_ID = 0
"""Comes behind a row's last token, where a causal network's other tokens never look."""


@dataclass(frozen=True)
class TokenRows:
    """Rows of numbers, one for each token.

    Attributes:
        values: all rows, one behind the other.
        ends: (rows,) where each ends.
    """

    values: NDArray[np.integer]
    ends: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        rows: Iterable[Sequence[int] | NDArray[np.integer]],
        dtype: type[np.generic] = np.uint32,
    ) -> "TokenRows":
        """Rows given as lists."""
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        values = np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
        return cls(values, lengths.cumsum())

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) tokens in each."""
        return np.diff(self.ends, prepend=0)

    def row(self, number: int) -> NDArray[np.integer]:
        """One row."""
        return self.values[self.ends[number - 1] if number else 0 : self.ends[number]]

    def pad(self, numbers: Sequence[int] | NDArray[np.int64], fill: int = PADDING_ID) -> Tensor:
        """Some rows side by side, (rows, longest) int64, filled up at their ends.

        A negative number is a row of nothing.
        """
        rows = [self.row(number) if number >= 0 else self.values[:0] for number in numbers]
        padded = np.full((len(rows), max([1, *map(len, rows)])), fill, dtype=np.int64)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return torch.from_numpy(padded)

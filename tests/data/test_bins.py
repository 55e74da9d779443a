"""Bins: every row in one, none too full, as few as best-fit decreasing makes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data.bins import fill_bins

SIZE = 30
LENGTHS = st.lists(st.integers(1, SIZE), max_size=60)


def best_fit_decreasing(lengths: list[int], size: int) -> list[list[int]]:
    """Johnson's rule as it is stated: each into the bin where it leaves least."""
    bins: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [held for held in bins if sum(held) + length <= size]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            bins.append([length])
    return bins


@settings(deadline=None)
@given(lengths=LENGTHS)
def test_bins_hold_every_row_once(lengths: list[int]) -> None:
    bins = fill_bins(lengths, SIZE)
    assert sorted(row for held in bins for row in held) == list(range(len(lengths)))
    filled = [sum(lengths[row] for row in held) for held in bins]
    assert all(0 < length <= SIZE for length in filled)
    expected = [sum(held) for held in best_fit_decreasing(lengths, SIZE)]
    assert sorted(filled) == sorted(expected)


def test_bins_of_known_content() -> None:
    assert fill_bins([4, 6, 5, 5, 9, 1], 10) == [[4, 5], [1, 0], [2, 3]]
    assert fill_bins(np.array([10, 10]), 10) == [[0], [1]]
    assert fill_bins([], 10) == []


def test_many_rows_leave_little_room() -> None:
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 200, 200_000), 1024)
    bins = fill_bins(lengths, 1024)
    assert lengths.sum() / (len(bins) * 1024) > 0.995
    assert sum(map(len, bins)) == len(lengths)

"""Splits: every conversation is read or accounted for, once."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_gpt_kit.data.chat_split import Split
from lit_gpt_kit.data.token_rows import TokenRows

BLOCK = 4
# Which tokens of a conversation are learned.
MASKS = [
    [0, 1],  # the shortest that teaches something
    [1],  # nothing comes before its one token
    [0, 0, 0, 1, 1],  # just as long as a block and its last target
    [0, 0, 0, 1, 1, 1],  # one longer
    [0, 0, 0, 0, 0, 1],  # the answer is behind the block
    [0, 0, 0, 0, 1, 1],
    [],  # left out since a text is empty
    [1, 0, 0],  # what is learned stands where no model can guess it
]


def split(masks: list[list[int]], too_long: Any) -> Split:
    store: Any = SimpleNamespace(
        tokens=TokenRows.of(masks), is_target=TokenRows.of(masks, np.bool_)
    )
    return Split.of(["a"], store, np.arange(len(masks)), BLOCK, too_long)


def test_cut() -> None:
    found = split(MASKS, "cut")
    assert found.rows.numbers.tolist() == [0, 2, 3, 5]
    assert found.rows.lengths.tolist() == [1, 4, 4, 4]
    assert (found.num_cut, found.num_dropped) == (2, 0)
    assert (found.num_without_target, found.num_empty) == (3, 1)
    assert found.describe_losses() == (
        "2 cut to the block, 3 left out since no answer is left in them, 1 left out since a text "
        "is empty"
    )


def test_drop() -> None:
    found = split(MASKS, "drop")
    assert found.rows.numbers.tolist() == [0, 2]
    assert found.rows.lengths.tolist() == [1, 4]
    assert (found.num_cut, found.num_dropped) == (0, 3)
    assert (found.num_without_target, found.num_empty) == (2, 1)
    assert found.describe_losses().startswith("3 too long and dropped, 2 left out since no answer")


@pytest.mark.parametrize("too_long", ["cut", "drop"])
@given(masks=st.lists(st.lists(st.integers(0, 1), max_size=9), max_size=9))
def test_none_is_lost(too_long: str, masks: list[list[int]]) -> None:
    found = split(masks, too_long)
    left_out = found.num_dropped + found.num_without_target + found.num_empty
    assert len(found.rows.numbers) + left_out == len(masks)
    assert found.num_cut <= len(found.rows.numbers)
    assert all(length <= BLOCK for length in found.rows.lengths)


def test_nothing_lost() -> None:
    assert split([[0, 1]], "cut").describe_losses() == ""

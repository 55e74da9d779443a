"""Rows of tokens: what went in comes out, padded at the end."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_gpt_kit.data.token_rows import PADDING_ID, TokenRows

ROWS = st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=9), max_size=9)


@given(rows=ROWS)
def test_rows_are_what_they_were_made_of(rows: list[list[int]]) -> None:
    made = TokenRows.of(rows)
    assert len(made) == len(rows)
    assert made.lengths.tolist() == [len(row) for row in rows]
    assert [made.row(number).tolist() for number in range(len(rows))] == rows


@given(rows=ROWS, data=st.data(), fill=st.integers(-9, 9))
def test_padding(rows: list[list[int]], data: st.DataObject, fill: int) -> None:
    numbers = data.draw(st.lists(st.integers(-1, len(rows) - 1), max_size=5))
    padded = TokenRows.of(rows).pad(numbers, fill)
    chosen = [rows[number] if number >= 0 else [] for number in numbers]
    width = max([1, *map(len, chosen)])
    assert padded.dtype == torch.int64
    assert padded.shape == (len(numbers), width)
    assert padded.tolist() == [row + [fill] * (width - len(row)) for row in chosen]


def test_rows_are_padded_by_a_token_that_every_vocabulary_has() -> None:
    rows = TokenRows.of([[5], [6, 7]])
    assert rows.pad(np.array([0, 1])).tolist() == [[5, PADDING_ID], [6, 7]]
    assert PADDING_ID == 0

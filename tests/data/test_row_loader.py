"""Loaders of rows: a step's rows do not depend on how it is split; evaluation reads each once."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data.order import Numbers, epoch_order
from lit_gpt_kit.data.row_loader import BATCHES_SORTED, FILLER, RowEvalLoader, RowTrainLoader

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=300)


def rows_of(rows: Numbers) -> dict[str, Any]:
    """A batch that says which rows it is made of."""
    return {"rows": rows.tolist()}


def some_lengths(num_rows: int) -> Numbers:
    return np.random.default_rng(0).integers(1, 100, num_rows)


@settings(deadline=None)
@given(
    lengths=LENGTHS,
    num_ranks=st.integers(1, 4),
    batches_per_step=st.integers(1, 4),
    batch_size=st.integers(1, 4),
    step=st.integers(0, 300),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_step_reads_the_same_rows_however_it_is_split(
    lengths: list[int],
    num_ranks: int,
    batches_per_step: int,
    batch_size: int,
    step: int,
    seed: int,
) -> None:
    array = np.array(lengths)
    rows_per_step = num_ranks * batches_per_step * batch_size
    whole = RowTrainLoader(array, rows_of, rows_per_step, seed)
    ranks = [
        RowTrainLoader(array, rows_of, batch_size, seed, rank, num_ranks, batches_per_step)
        for rank in range(num_ranks)
    ]
    numbers = range(step * batches_per_step, (step + 1) * batches_per_step)
    parts = [rank.batch(number)["rows"] for rank in ranks for number in numbers]
    assert all(len(part) == batch_size for part in parts)
    assert sorted(row for part in parts for row in part) == sorted(whole.batch(step)["rows"])
    assert {len(rank) for rank in ranks} == {len(whole) * batches_per_step}


def test_batches_are_the_rows_of_the_order() -> None:
    lengths = some_lengths(10)
    loader = RowTrainLoader(lengths, rows_of, 3, seed=5)
    assert len(loader) == 4
    expected = np.concatenate([epoch_order(lengths, 3, 5, epoch) for epoch in range(3)])
    assert [batch["rows"] for batch in islice(loader, 12)] == expected.tolist()


def test_an_iterator_starts_where_training_stands() -> None:
    stands = 0
    loader = RowTrainLoader(
        some_lengths(50), rows_of, 4, seed=0, batches_per_step=2, first_batch=lambda: stands
    )
    everything = list(islice(loader, 40))  # more than two epochs
    for stands in (0, 1, 7, 13, 14, 39):
        assert list(islice(loader, 40 - stands)) == everything[stands:]
    assert loader.state_dict() == {}
    loader.load_state_dict({"anything": 1})
    assert list(islice(loader, 1)) == everything[39:]


def test_another_seed_is_another_order() -> None:
    one, other = (RowTrainLoader(some_lengths(500), rows_of, 50, seed) for seed in (0, 1))
    assert set(one.batch(0)["rows"]) != set(other.batch(0)["rows"])


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), max_size=1000),
    batch_size=st.integers(1, 5),
    num_ranks=st.integers(1, 4),
)
def test_evaluation_reads_every_row_once(
    lengths: list[int], batch_size: int, num_ranks: int
) -> None:
    array = np.array(lengths, dtype=np.int64)
    ranks = [
        RowEvalLoader(array, rows_of, batch_size, rank, num_ranks) for rank in range(num_ranks)
    ]
    batches = [[batch["rows"] for batch in rank] for rank in ranks]
    needed = -(-len(lengths) // (batch_size * num_ranks))
    assert [len(of_rank) for of_rank in batches] == [len(rank) for rank in ranks]
    assert {len(of_rank) for of_rank in batches} == {needed}
    assert all(len(batch) == batch_size for of_rank in batches for batch in of_rank)
    read = [row for of_rank in batches for batch in of_rank for row in batch]
    assert sorted(row for row in read if row != FILLER) == list(range(len(lengths)))


def test_rows_of_like_length_are_evaluated_together() -> None:
    lengths = some_lengths(8 * BATCHES_SORTED * 3)
    batches = [batch["rows"] for batch in RowEvalLoader(lengths, rows_of, 8)]
    spread = np.mean([np.ptp(lengths[rows]) for rows in batches])
    assert spread < 0.05 * np.ptp(lengths)


@pytest.mark.parametrize("num_batches", [8, 24])
def test_some_batches_of_an_evaluation_stand_for_all(num_batches: int) -> None:
    lengths = some_lengths(8 * BATCHES_SORTED)
    some = list(islice(RowEvalLoader(lengths, rows_of, 8), num_batches))
    mean = np.mean([lengths[batch["rows"]].mean() for batch in some])
    spread = lengths.std() / num_batches**0.5  # of the mean of so many batches of like rows
    assert abs(mean - lengths.mean()) < 3 * spread

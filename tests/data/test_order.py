"""The order of rows: a permutation each epoch, a pure function of seed and number."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data.order import (
    STEPS_SORTED,
    epoch_order,
    row_starts,
    rows_per_epoch,
    shuffle,
    steps_per_epoch,
    stratified_choice,
)

KEYS = st.integers(0, 2**63)


@settings(deadline=None)
@given(size=st.integers(1, 5000), key=KEYS)
def test_shuffle_is_a_bijection(size: int, key: int) -> None:
    shuffled = shuffle(np.arange(size), size, key)
    assert shuffled.dtype == np.int64
    assert np.array_equal(np.sort(shuffled), np.arange(size))


@settings(deadline=None)
@given(size=st.integers(20, 5000), key=KEYS)
def test_another_key_is_another_order(size: int, key: int) -> None:
    one, other = (shuffle(np.arange(size), size, k) for k in (key, key + 1))
    assert (one == other).mean() < 0.5
    assert (one == np.arange(size)).mean() < 0.5


@settings(deadline=None)
@given(size=st.integers(1, 5000), key=KEYS, data=st.data())
def test_shuffle_takes_each_index_by_itself(size: int, key: int, data: st.DataObject) -> None:
    chosen = np.array(data.draw(st.lists(st.integers(0, size - 1))), dtype=np.int64)
    assert np.array_equal(shuffle(chosen, size, key), shuffle(np.arange(size), size, key)[chosen])


@pytest.mark.parametrize("size", [2, 7, 16, 17])
def test_every_index_lands_everywhere_equally_often(size: int) -> None:
    num_keys = 1000
    index = np.arange(size)
    landed = np.zeros((size, size))
    for key in range(num_keys):
        landed[index, shuffle(index, size, key)] += 1
    expected = num_keys / size
    # (size - 1)^2 degrees of freedom: mean and spread of chi-squared, five sigma.
    freedom = (size - 1) ** 2
    chi_squared = ((landed - expected) ** 2 / expected).sum()
    assert chi_squared < freedom + 5 * (2 * freedom) ** 0.5 + 5


def test_neighbours_are_parted() -> None:
    shuffled = shuffle(np.arange(5000), 5000, key=7)
    steps = np.diff(shuffled)
    assert 0.45 < (steps > 0).mean() < 0.55
    # The mean distance of two random places is a third of the whole.
    assert abs(np.abs(steps).mean() / 5000 - 1 / 3) < 0.02
    assert abs(np.corrcoef(np.arange(5000), shuffled)[0, 1]) < 0.05


def test_a_corpus_of_any_size_is_shuffled_at_once() -> None:
    size = 10**15
    index = np.arange(size - 1000, size)
    shuffled = shuffle(index, size, key=3)
    assert len(set(shuffled.tolist())) == 1000
    assert 0 <= shuffled.min() < shuffled.max() < size
    assert abs(shuffled.mean() / size - 0.5) < 0.05


STREAMS = st.integers(1, 40).flatmap(
    lambda block: st.tuples(st.integers(block + 1, 3000), st.just(block))
)
SEEDS = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None)
@given(stream=STREAMS, seed=SEEDS, epoch=st.integers(0, 1000))
def test_an_epoch_is_every_row_once(stream: tuple[int, int], seed: int, epoch: int) -> None:
    num_tokens, block_size = stream
    rows = rows_per_epoch(num_tokens, block_size)
    samples = np.arange(epoch * rows, (epoch + 1) * rows)
    starts = np.sort(row_starts(samples, num_tokens, block_size, seed))
    assert np.array_equal(np.diff(starts), np.full(rows - 1, block_size))
    assert 0 <= starts[0] <= block_size
    assert starts[-1] + block_size + 1 <= num_tokens
    # As many rows as fit, but for the one that the shift of the cut may cost.
    assert (rows + 2) * block_size + 1 > num_tokens


@settings(deadline=None)
@given(
    stream=STREAMS,
    seed=SEEDS,
    samples=st.lists(st.integers(0, 300), max_size=30),
)
def test_starts_are_a_pure_function(stream: tuple[int, int], seed: int, samples: list[int]) -> None:
    everything = row_starts(np.arange(301), *stream, seed)
    chosen = row_starts(np.array(samples, dtype=np.int64), *stream, seed)
    assert chosen.tolist() == everything[samples].tolist()


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    num_tokens, block_size = 10_000, 10
    rows = rows_per_epoch(num_tokens, block_size)
    orders = [
        row_starts(np.arange(epoch * rows, (epoch + 1) * rows), num_tokens, block_size, seed)
        for epoch in range(4)
        for seed in (0, 1, -1)
    ]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one // block_size == other // block_size).mean() < 0.05


def test_each_epoch_cuts_elsewhere() -> None:
    num_tokens, block_size = 10_000, 10
    rows = rows_per_epoch(num_tokens, block_size)
    firsts = row_starts(np.arange(200) * rows, num_tokens, block_size, seed=0) % block_size
    assert set(firsts.tolist()) == set(range(block_size))


def test_starts_of_today_are_those_of_tomorrow() -> None:
    # A run that goes on under a later version must read on where it stood.
    frozen = [50, 750, 450, 350, 650, 250, 150, 850, 550, 224, 624, 24]
    assert row_starts(np.arange(12), 1000, 100, seed=42).tolist() == frozen


@pytest.mark.parametrize(
    ("num_tokens", "block_size", "rows"),
    [(11, 10, 1), (20, 10, 1), (29, 10, 1), (30, 10, 2), (31, 10, 2), (2, 1, 1), (1000, 10, 99)],
)
def test_rows_per_epoch(num_tokens: int, block_size: int, rows: int) -> None:
    assert rows_per_epoch(num_tokens, block_size) == rows


@given(num_items=st.integers(0, 5000), fraction=st.floats(0, 0.999))
def test_stratified_choice_takes_one_of_each_stretch(num_items: int, fraction: float) -> None:
    chosen = stratified_choice(num_items, fraction)
    assert len(chosen) == int(num_items * fraction)
    for number, item in enumerate(chosen.tolist()):
        assert number * num_items // len(chosen) <= item
        assert item < (number + 1) * num_items // len(chosen)


def test_stratified_choice_is_random_within_a_stretch() -> None:
    offsets = stratified_choice(10_000, 0.1) % 10
    counts = np.bincount(offsets, minlength=10)
    assert counts.min() > 60
    assert counts.max() < 140


# ---- rows of any lengths ----

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=400)


@settings(deadline=None)
@given(lengths=LENGTHS, rows_per_step=st.integers(1, 40), seed=SEEDS, epoch=st.integers(0, 1000))
def test_an_epoch_of_rows_reads_each_at_least_once(
    lengths: list[int], rows_per_step: int, seed: int, epoch: int
) -> None:
    order = epoch_order(np.array(lengths), rows_per_step, seed, epoch)
    num_steps = steps_per_epoch(len(lengths), rows_per_step)
    assert num_steps == max(1, math.ceil(len(lengths) / rows_per_step))
    assert order.shape == (num_steps, rows_per_step)
    counts = np.bincount(order.flatten(), minlength=len(lengths))
    assert len(counts) == len(lengths)
    # As seldom again as can be, and no row more often than another by more than one.
    assert counts.min() >= 1
    assert counts.max() - counts.min() <= 1
    again = epoch_order(np.array(lengths), rows_per_step, seed, epoch)
    assert again.tolist() == order.tolist()


def test_a_step_has_rows_of_like_length() -> None:
    lengths = np.random.default_rng(0).geometric(0.02, 8 * STEPS_SORTED * 4)
    order = epoch_order(lengths, 8, seed=0, epoch=0)
    longest, tokens = lengths[order].max(axis=1), lengths[order].sum(axis=1)
    by_chance = lengths.reshape(-1, 8)
    assert tokens.sum() > 0.9 * (longest * 8).sum()
    assert by_chance.sum() < 0.5 * (by_chance.max(axis=1) * 8).sum()
    # Neighbouring steps are not: within a stretch they are shuffled.
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2


def test_each_epoch_and_seed_mixes_rows_anew() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 2000)
    steps = [
        {frozenset(step.tolist()) for step in epoch_order(lengths, 4, seed, epoch)}
        for epoch in range(3)
        for seed in (0, 1, -1)
    ]
    for number, one in enumerate(steps):
        for other in steps[:number]:
            assert len(one & other) < 5
    # Rows of one length alone: nothing but the shuffling.
    firsts = [int(epoch_order(np.ones(100), 1, 0, epoch)[0, 0]) for epoch in range(200)]
    assert len(set(firsts)) > 80


def test_orders_of_rows_of_today_are_those_of_tomorrow() -> None:
    # A run that goes on under a later version must read on where it stood.
    lengths = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    frozen = [[8, 4, 7, 5], [1, 3, 6, 6], [0, 9, 2, 2]]
    assert epoch_order(lengths, 4, seed=42, epoch=1).tolist() == frozen

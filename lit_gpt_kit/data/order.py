"""Which rows make a batch: a pure function of the seed and the batch's number.

Nothing is remembered between batches, so there is nothing to save: a run that stops and goes on,
on more devices or fewer, reads the rows that it would have read.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

NUM_ROUNDS = 6
STEPS_SORTED = 50
"""Rows are sorted by length within so many steps; more pad less and mix less."""


def row_starts(samples: Numbers, num_tokens: int, block_size: int, seed: int) -> Numbers:
    """Where in the stream of tokens the rows of these samples begin.

    Sample s is the s-th row that training reads. Each epoch cuts the stream into rows of
    `block_size` tokens and reads every row once, in an order of its own; where the first cut falls
    differs too, so that a token does not always see the same context.

    Args:
        samples: sample numbers, from 0.
        num_tokens: length of the stream; more than `block_size`.
        block_size: length of a row.
        seed: another seed is another order.
    """
    rows = rows_per_epoch(num_tokens, block_size)
    slack = min(block_size, num_tokens - rows * block_size)  # the last target needs one token more
    starts = np.empty_like(samples)
    for epoch in np.unique(samples // rows):
        of_epoch = samples // rows == epoch
        key = _mix(_mix(np.uint64(seed & (2**64 - 1))) ^ np.uint64(epoch))
        shuffled = shuffle(samples[of_epoch] % rows, rows, int(key))
        starts[of_epoch] = shuffled * block_size + int(_mix(key) % np.uint64(slack))
    return starts


def rows_per_epoch(num_tokens: int, block_size: int) -> int:
    """How many rows an epoch reads."""
    return max(1, (num_tokens - block_size) // block_size)


def shuffle(index: Numbers, size: int, key: int) -> Numbers:
    """Where a random permutation of range(size) takes each index; another key, another one.

    A Feistel network permutes a power of four that is at least `size`; what lands outside is sent
    through again until it lands inside (Black and Rogaway 2002, cycle walking). Unlike a shuffled
    list it takes no memory and no time to set up, however large the corpus, and no library's
    random stream can change it.
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    keys = [_mix(np.uint64(key) + np.uint64(n)) for n in range(1, NUM_ROUNDS + 1)]
    out = index.astype(np.uint64)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        left, right = out[outside] >> half_bits, out[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        out[outside] = left << half_bits | right
        outside = out >= size
    return out.astype(np.int64)


def epoch_order(lengths: Numbers, rows_per_step: int, seed: int, epoch: int) -> Numbers:
    """Which rows each step of an epoch reads, rows of like length in a step.

    Every row is read at least once; where rows and steps do not come out even, the rows that the
    shuffling put first are read once more. Rows are shuffled first, then sorted by length within
    stretches of `STEPS_SORTED` steps, so that little is padded and much is left to chance, and the
    steps of a stretch are shuffled again.

    Args:
        lengths: (rows,) what to sort by.
        rows_per_step: rows of a step, over all its micro-batches and ranks.
        seed: another seed is another order.
        epoch: its number, from 0.

    Returns:
        (steps, rows_per_step) row numbers.
    """
    num_rows = len(lengths)
    num_steps = steps_per_epoch(num_rows, rows_per_step)
    key = int(_mix(_mix(np.uint64(seed & (2**64 - 1))) ^ np.uint64(epoch)))
    rows = np.resize(shuffle(np.arange(num_rows), num_rows, key), num_steps * rows_per_step)
    for start in range(0, len(rows), STEPS_SORTED * rows_per_step):
        stretch = rows[start : start + STEPS_SORTED * rows_per_step]
        ordered = stretch[np.argsort(lengths[stretch], kind="stable")].reshape(-1, rows_per_step)
        steps = shuffle(np.arange(len(ordered)), len(ordered), key ^ (start + 1))
        stretch[:] = ordered[steps].reshape(-1)
    return rows.reshape(num_steps, rows_per_step)


def steps_per_epoch(num_rows: int, rows_per_step: int) -> int:
    """How many steps read every row once."""
    return max(1, -(-num_rows // rows_per_step))


def stratified_choice(num_items: int, fraction: float) -> Numbers:
    """About `fraction` of range(num_items), spread evenly, one at random from each stretch."""
    num_chosen = int(num_items * fraction)
    borders = np.arange(num_chosen + 1, dtype=np.int64) * num_items // max(1, num_chosen)
    widths = np.diff(borders).astype(np.uint64)
    offsets = _mix(np.arange(num_chosen, dtype=np.uint64)) % np.maximum(widths, 1)
    return borders[:-1] + offsets.astype(np.int64)


def _mix(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """A number that looks random (splitmix64: Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

"""Loaders: what a step reads does not depend on how it is split over ranks and micro-batches."""

from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_gpt_kit.data.loader import EvalLoader, TrainLoader
from lit_gpt_kit.data.order import row_starts
from lit_gpt_kit.data.packing import TokenStream
from lit_gpt_kit.model.loss import IGNORE_INDEX

MakeStore = Callable[[list[int]], SimpleNamespace]


@pytest.fixture(scope="session")
def make_stream(counting_store: MakeStore) -> Callable[[int], TokenStream]:
    """Builds a stream whose token i is i, in documents of ten."""

    def build(num_tokens: int) -> TokenStream:
        lengths = [10] * (num_tokens // 10) + [num_tokens % 10] * (num_tokens % 10 > 0)
        return TokenStream(counting_store(lengths), np.array([[0, num_tokens]]))  # type: ignore[arg-type]

    return build


MakeStream = Callable[[int], TokenStream]


def firsts(batches: list[dict[str, Tensor]]) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch["input_ids"]]


@settings(deadline=None)
@given(
    num_ranks=st.integers(1, 4),
    batches_per_step=st.integers(1, 4),
    batch_size=st.integers(1, 4),
    step=st.integers(0, 300),
    num_tokens=st.integers(9, 500),
    seed=st.integers(0, 2**63),
)
def test_a_step_reads_the_same_rows_however_it_is_split(
    make_stream: MakeStream,
    num_ranks: int,
    batches_per_step: int,
    batch_size: int,
    step: int,
    num_tokens: int,
    seed: int,
) -> None:
    stream, block_size = make_stream(num_tokens), 8
    rows_per_step = num_ranks * batches_per_step * batch_size
    whole = TrainLoader(stream, block_size, rows_per_step, seed)
    ranks = [
        TrainLoader(
            stream,
            block_size,
            batch_size,
            seed,
            rank=rank,
            num_ranks=num_ranks,
            batches_per_step=batches_per_step,
        )
        for rank in range(num_ranks)
    ]
    numbers = range(step * batches_per_step, (step + 1) * batches_per_step)
    parts = [rank.batch(number) for rank in ranks for number in numbers]
    assert sorted(firsts(parts)) == sorted(firsts([whole.batch(step)]))


def test_batches_are_the_rows_of_the_order(make_stream: MakeStream) -> None:
    stream = make_stream(200)
    loader = TrainLoader(stream, 8, batch_size=3, seed=5)
    batches = list(islice(loader, 30))  # more than an epoch
    expected = row_starts(np.arange(90), 200, 8, seed=5)
    assert firsts(batches) == expected.tolist()
    for batch in batches:
        assert batch["input_ids"].shape == batch["targets"].shape == (3, 8)
        assert torch.equal(batch["targets"], batch["input_ids"] + 1)


def test_an_iterator_starts_where_training_stands(make_stream: MakeStream) -> None:
    stands = 0
    loader = TrainLoader(make_stream(200), 8, 2, seed=0, first_batch=lambda: stands)
    all_batches = firsts(list(islice(loader, 20)))
    stands = 7
    assert firsts(list(islice(loader, 13))) == all_batches[14:]
    assert loader.state_dict() == {}
    loader.load_state_dict({"anything": 1})
    assert firsts(list(islice(loader, 13))) == all_batches[14:]


def test_another_seed_is_another_order(make_stream: MakeStream) -> None:
    one, other = (TrainLoader(make_stream(5000), 8, 50, seed) for seed in (0, 1))
    assert firsts([one.batch(0)]) != firsts([other.batch(0)])


@pytest.mark.parametrize("isolate", [False, True])
def test_documents_are_isolated_on_demand(make_stream: MakeStream, isolate: bool) -> None:
    stream = make_stream(200)
    for loader in (
        TrainLoader(stream, 16, 4, seed=0, isolate_documents=isolate),
        EvalLoader(stream, 16, 4, isolate_documents=isolate),
    ):
        batch = next(iter(loader))
        assert ("document_ids" in batch) is isolate
        assert bool((batch["targets"] == IGNORE_INDEX).any()) is isolate


@pytest.mark.parametrize(
    ("num_tokens", "batch_size", "num_ranks", "batches_per_step", "length"),
    [
        (801, 10, 1, 1, 9),  # 99 rows
        (801, 10, 2, 1, 4),
        (801, 10, 2, 2, 4),
        (801, 10, 3, 3, 3),
        (801, 99, 1, 1, 1),
        (801, 100, 1, 1, 1),  # less than one step is one step
        (9, 1, 4, 5, 5),
    ],
)
def test_an_epoch_is_a_whole_number_of_steps(
    make_stream: MakeStream,
    num_tokens: int,
    batch_size: int,
    num_ranks: int,
    batches_per_step: int,
    length: int,
) -> None:
    loader = TrainLoader(
        make_stream(num_tokens),
        8,
        batch_size,
        seed=0,
        num_ranks=num_ranks,
        batches_per_step=batches_per_step,
    )
    assert len(loader) == length


@settings(deadline=None)
@given(
    num_tokens=st.integers(0, 300),
    block_size=st.integers(1, 20),
    batch_size=st.integers(1, 5),
    num_ranks=st.integers(1, 4),
)
def test_evaluation_covers_every_target_once(
    make_stream: MakeStream, num_tokens: int, block_size: int, batch_size: int, num_ranks: int
) -> None:
    stream = make_stream(num_tokens)
    ranks = [
        EvalLoader(stream, block_size, batch_size, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    batches = [list(loader) for loader in ranks]
    assert (
        {len(loader) for loader in ranks}
        == {len(of_rank) for of_rank in batches}
        == {len(ranks[0])}
    )
    targets = []
    for batch in (batch for of_rank in batches for batch in of_rank):
        assert batch["input_ids"].shape == (batch_size, block_size)
        kept = batch["targets"] != IGNORE_INDEX
        assert torch.equal(batch["targets"][kept], batch["input_ids"][kept] + 1)
        targets += batch["targets"][kept].tolist()
    assert sorted(targets) == list(range(1, num_tokens))
    # No batch of which all ranks' rows are mere filling.
    needed = -(-max(0, num_tokens - 1) // block_size)
    numbers = [n for of_rank in batches for batch in of_rank for n in batch["row"].tolist()]
    assert sorted(n for n in numbers if n != -1) == list(range(needed))
    assert len(ranks[0]) == -(-needed // (batch_size * num_ranks))


def test_evaluation_is_in_order(make_stream: MakeStream) -> None:
    loader = EvalLoader(make_stream(50), 8, batch_size=2)
    rows = torch.cat([batch["input_ids"] for batch in loader]).flatten()
    assert rows[:50].tolist() == list(range(50))
    assert rows[50:].tolist() == [0] * (len(rows) - 50)
    assert [batch["row"].tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5], [6, -1]]

"""Growing batches: every row in its turn, however a step is split and wherever a run goes on."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data.batch_warmup import BatchWarmup
from lit_gpt_kit.data.loader import TrainLoader
from lit_gpt_kit.data.order import row_starts
from lit_gpt_kit.data.packing import TokenStream
from lit_gpt_kit.data.text import TextDataModule
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.training import TokenizerConfig

MakeStore = Callable[[list[int]], SimpleNamespace]


@pytest.fixture(scope="session")
def stream(counting_store: MakeStore) -> TokenStream:
    """A thousand tokens, token i is i."""
    return TokenStream(counting_store([1000]), np.array([[0, 1000]]))  # type: ignore[arg-type]


def firsts(loader: TrainLoader, number: int) -> list[int]:
    return [int(row[0]) for row in loader.batch(number)["input_ids"]]


def test_rows_grow_in_a_line_from_start_to_the_batch() -> None:
    warmup = BatchWarmup(start=2, steps=9)
    rows = [warmup.rows(step, rows_per_step=8) for step in range(12)]
    assert rows == [2, 2, 2, 4, 4, 4, 6, 6, 6, 8, 8, 8]
    assert [BatchWarmup(8, 9).rows(step, 8) for step in range(3)] == [8, 8, 8]


@given(start=st.integers(1, 5), times=st.integers(1, 9), steps=st.integers(1, 40))
def test_rows_before_are_the_sum_of_the_earlier_steps(start: int, times: int, steps: int) -> None:
    warmup, batch_size = BatchWarmup(start, steps), start * times
    total = 0
    for step in range(2 * steps + 3):
        assert warmup.rows_before(step, batch_size) == total
        rows = warmup.rows(step, batch_size)
        assert start <= rows <= batch_size
        total += rows
    assert warmup.rows(steps, batch_size) == batch_size
    assert warmup.rows(0, batch_size) == start


@settings(deadline=None)
@given(
    num_ranks=st.integers(1, 3),
    batches_per_step=st.integers(1, 3),
    times=st.integers(1, 4),
    steps=st.integers(1, 12),
)
def test_a_step_reads_the_next_rows_of_the_order_however_it_is_split(
    stream: TokenStream, num_ranks: int, batches_per_step: int, times: int, steps: int
) -> None:
    parts = num_ranks * batches_per_step
    warmup = BatchWarmup(start=2 * parts, steps=steps)  # one configuration, whatever the split

    def loader(rank: int, num_ranks: int, batches_per_step: int) -> TrainLoader:
        batch_size = 2 * parts * times // (num_ranks * batches_per_step)
        return TrainLoader(stream, 8, batch_size, 3, rank=rank, num_ranks=num_ranks,
                           batches_per_step=batches_per_step, batch_warmup=warmup)  # fmt: skip

    whole = loader(0, 1, 1)
    ranks = [loader(rank, num_ranks, batches_per_step) for rank in range(num_ranks)]
    read: list[int] = []
    for step in range(steps + 2):
        of_step = firsts(whole, step)
        numbers = range(step * batches_per_step, (step + 1) * batches_per_step)
        split = [first for number in numbers for rank in ranks for first in firsts(rank, number)]
        assert split == of_step
        read += of_step
    assert read == row_starts(np.arange(len(read)), 1000, 8, seed=3).tolist()


def test_an_iterator_starts_where_training_stands(stream: TokenStream) -> None:
    stands = 0
    loader = TrainLoader(
        stream, 8, 6, 0, batches_per_step=2, first_batch=lambda: stands,
        batch_warmup=BatchWarmup(2, 4),
    )  # fmt: skip
    rows = [batch["input_ids"].tolist() for batch in islice(loader, 20)]
    stands = 6
    assert [batch["input_ids"].tolist() for batch in islice(loader, 14)] == rows[6:]


def test_refuses_another_batch_that_growth_does_not_come_out_at(stream: TokenStream) -> None:
    with pytest.raises(InputError, match=r"^the 7 rows of a step are not a multiple of batch_w"):
        TrainLoader(stream, 8, 7, seed=0, batch_warmup=BatchWarmup(2, 4))


def test_a_run_says_how_many_epochs_it_really_reads(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a" * 6400)
    data = TextDataModule(
        [str(tmp_path / "text.txt")], tokenizer=TokenizerConfig("byte"), batch_size=8,
        block_size=16, seed=0, val_fraction=0.0, cache_dir=str(tmp_path / "cache"),
        batch_warmup=BatchWarmup(2, 30),
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    assert data.train_dataloader().batch(0)["input_ids"].shape == (2, 16)
    # Ten steps each of 2, 4 and 6 rows of 16 tokens, and twenty of 8.
    assert data.describe_steps(50, 1) == "of up to 128 tokens (0.7 epochs)"


@pytest.mark.parametrize(
    ("start", "split", "said"),
    [
        (3, (8,), "the 8 rows of a step are not a multiple of batch_warmup.start=3; batches"),
        (
            16,
            (8,),
            "the 8 rows of a step are not a multiple of batch_warmup.start=16; batches",
        ),
        (
            # What 0.1.0 took for rows of a micro-batch.
            2,
            (8, 2, 3),
            "batch_warmup.start=2 counts the rows of a whole step, which 2 micro-batches on 3 "
            "devices cannot share evenly; make it a multiple of 6, such as 6",
        ),
        (8, (4, 3, 2), "cannot share evenly; make it a multiple of 6, such as 12"),
    ],
)
def test_refuses_what_does_not_come_out(start: int, split: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        BatchWarmup(start, 9).check(*split)


@pytest.mark.parametrize(("start", "steps", "said"), [(0, 9, "start=0"), (2, 0, "steps=0")])
def test_refuses_to_grow_from_nothing(start: int, steps: int, said: str) -> None:
    with pytest.raises(InputError, match=f"batch_warmup.{said} must be at least 1"):
        BatchWarmup(start, steps)


@pytest.mark.parametrize(
    ("warmup", "rows", "steps"),
    [(None, 24, 0), (BatchWarmup(6, 5), 6, 5), (BatchWarmup(24, 5), 24, 0)],
)
def test_checkpoints_remember_how_rows_grow(
    warmup: BatchWarmup | None, rows: int, steps: int, tmp_path: Path
) -> None:
    (tmp_path / "poem.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    data = TextDataModule(
        [str(tmp_path / "poem.txt")],
        tokenizer=TokenizerConfig("byte"),
        batch_size=8,
        block_size=8,
        cache_dir=str(tmp_path / "cache"),
        batch_warmup=warmup,
    )
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        accumulate_grad_batches=3,
        distributed_sampler_kwargs=None,
        lightning_module=None,
        strategy=SimpleNamespace(broadcast=lambda seed: seed),
        state=SimpleNamespace(fn="fit"),
    )
    data.setup("fit")
    order = data.identity["order"]
    assert (order["rows_per_step"], order["rows_at_first"]) == (24, rows)
    assert order["batch_warmup.steps"] == steps

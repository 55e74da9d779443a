"""Early steps cut their rows; nothing is learned twice or left out, and a run goes on exactly."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_gpt_kit import InputError, LanguageModeling, TextDataModule
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.data.batch_warmup import BatchWarmup
from lit_gpt_kit.model.loss import IGNORE_INDEX
from lit_gpt_kit.tasks.window_warmup import WindowWarmup
from tests.tasks.test_resume import DROPOUT, StopAfter, state
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]


def test_windows_double_until_rows_are_whole() -> None:
    warmup = WindowWarmup(start=2, steps=6)
    assert [warmup.window(step, 16) for step in range(8)] == [2, 2, 4, 4, 8, 8, 16, 16]
    assert [WindowWarmup(16, 6).window(step, 16) for step in (0, 9)] == [16, 16]
    assert [WindowWarmup(1, 1).window(step, 16) for step in (0, 1)] == [1, 16]


def test_a_cut_batch_is_the_same_tokens_and_targets_in_shorter_rows() -> None:
    ids = torch.arange(32).view(2, 16)
    targets = (ids + 1).where(ids % 5 > 0, IGNORE_INDEX)
    batch = {"input_ids": ids, "targets": targets, "document_ids": ids // 6, "row": torch.arange(2)}
    cut = WindowWarmup(4, 10).cut(batch, step=5)
    assert cut["input_ids"].tolist() == ids.view(4, 8).tolist()
    assert cut["targets"].tolist() == targets.view(4, 8).tolist()
    assert cut["document_ids"].tolist() == (ids // 6).view(4, 8).tolist()
    assert cut["row"].tolist() == [0, 1]
    whole = WindowWarmup(4, 10).cut(batch, step=10)
    assert all(torch.equal(whole[name], batch[name]) for name in batch)


def test_its_loss_is_that_of_the_pieces_each_alone() -> None:
    task = make_task(replace(TINY, vocab_size=40, position="rotary"))
    task.configure_model()
    ids = torch.randint(40, (2, 9))
    batch = {"input_ids": ids[:, :-1], "targets": ids[:, 1:],
             "document_ids": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]] * 2)}  # fmt: skip
    nll, num_targets = task.compute_loss(WindowWarmup(4, 1).cut(batch, step=0))
    alone = 0.0
    for row in range(2):
        for start, end in ((0, 3), (3, 4), (4, 8)):  # documents and cuts
            scores = task.network(ids[row : row + 1, start:end])[0].double().log_softmax(-1)
            following = ids[row, start + 1 : end + 1, None]
            alone -= float(scores.gather(-1, following).sum())
    assert num_targets == 16
    assert float(nll) == pytest.approx(alone, rel=1e-5)


def test_training_is_cut_and_validation_is_not(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task(window_warmup=WindowWarmup(start=2, steps=4))
    seen: list[tuple[bool, tuple[int, ...]]] = []
    compute_loss = task.compute_loss

    def note_shape(batch: dict[str, Tensor]) -> Any:
        seen.append((task.training, tuple(batch["input_ids"].shape)))
        return compute_loss(batch)

    task.compute_loss = note_shape  # type: ignore[method-assign]
    trainer = make_trainer(tmp_path, 5, accumulate_grad_batches=2, limit_val_batches=1,
                           val_check_interval=4, check_val_every_n_epoch=None)  # fmt: skip
    trainer.fit(task, make_data())
    trained = [shape for training, shape in seen if training]
    assert trained == [(16, 2)] * 4 + [(8, 4)] * 4 + [(4, 8)] * 2
    assert {shape for training, shape in seen if not training} == {(4, 8)}
    assert task.num_tokens_seen == 5 * 2 * 4 * 8


def growing(make_data: MakeData) -> tuple[LanguageModeling, TextDataModule]:
    data = make_data(batch_size=4, batch_warmup=BatchWarmup(start=2, steps=6))
    return make_task(DROPOUT, window_warmup=WindowWarmup(start=1, steps=7)), data


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_a_stopped_run_ends_bit_for_bit_alike(
    make_data: MakeData, tmp_path: Path, stop: int
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "enable_checkpointing": True}
    task, data = growing(make_data)
    make_trainer(tmp_path, 10, **options).fit(task, data)
    # Rows of a step: 2 x 1, 1, 2, 2, 3, 3, 4, 4, 4, 4.
    assert task.num_tokens_seen == 2 * 28 * 8
    expected = state(task)

    checkpoint = LastCheckpoint(tmp_path)
    callbacks = [checkpoint, StopAfter(stop, checkpoint)]
    with pytest.raises(SystemExit):
        make_trainer(tmp_path, 10, callbacks=callbacks, **options).fit(*growing(make_data))
    task, data = growing(make_data)
    trainer = make_trainer(tmp_path, 10, **options)
    trainer.fit(task, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert task.num_tokens_seen == 2 * 28 * 8
    actual = state(task)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


@pytest.mark.parametrize(
    ("start", "steps", "length", "said"),
    [
        (3, 9, 16, "start=3 does not come to rows of 16 tokens by doubling; choose another start"),
        (4, 9, 12, "start=4 does not come to rows of 12 tokens by doubling"),
        (0, 9, 16, "window_warmup.start=0 must be at least 1"),
        (2, 0, 16, "window_warmup.steps=0 must be at least 1"),
    ],
)
def test_refuses_what_does_not_double(start: int, steps: int, length: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        WindowWarmup(start, steps).window(0, length)


def test_refuses_conversations() -> None:
    batch = {"input_ids": torch.zeros(1, 8), "target_positions": torch.zeros(1)}
    with pytest.raises(InputError, match="an answer needs its question; leave it out with data of"):
        WindowWarmup(2, 9).cut(batch, step=0)


def test_rows_no_longer_than_the_start_are_whole() -> None:
    assert [WindowWarmup(32, 5).window(step, 8) for step in (0, 9)] == [8, 8]
    assert WindowWarmup(32, 5).window(0, 32) == 32

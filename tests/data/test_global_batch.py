"""The global batch stays as it is, whatever the micro-batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_gpt_kit import (
    ClassificationDataModule,
    InstructionDataModule,
    LanguageModeling,
    SequenceClassification,
    TextDataModule,
    TokenizerConfig,
)
from lit_gpt_kit.data.global_batch import GlobalBatch
from lit_gpt_kit.errors import InputError
from tests.tiny import TINY, make_task, make_trainer

BYTES = TokenizerConfig("byte")
TEXT = "the quick brown fox jumps over the lazy dog and runs away from it\n"
STEPS = 5
LONGER = replace(TINY, block_size=64)


class Curve(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > len(self.losses):
            self.losses.append(float(trainer.callback_metrics["train/loss"]))


def curve(task: LanguageModeling | SequenceClassification, data: Any, folder: Path) -> list[float]:
    losses = Curve()
    trainer = make_trainer(folder, STEPS, callbacks=[losses])
    trainer.fit(task, data)
    assert trainer.global_step == STEPS
    return losses.losses


@pytest.fixture
def make_text(tmp_path: Path) -> Callable[..., TextDataModule]:
    (tmp_path / "poem.txt").write_text(TEXT * 20)

    def make(**options: Any) -> TextDataModule:
        settings = {"tokenizer": BYTES, "cache_dir": str(tmp_path / "cache"), **options}
        return TextDataModule([str(tmp_path / "poem.txt")], **settings)

    return make


MakeText = Callable[..., TextDataModule]


def test_the_micro_batch_does_not_change_the_curve(make_text: MakeText, tmp_path: Path) -> None:
    curves = []
    for batch_size in (8, 2):
        data = make_text(batch_size=batch_size, global_batch_tokens=8 * TINY.block_size)
        curves.append(curve(make_task(), data, tmp_path))
        assert data.batches_per_step == 8 // batch_size
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    assert len(curves[0]) == STEPS


@pytest.mark.parametrize("pack", [False, True])
def test_rows_of_conversations_likewise(pack: bool, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = (
        f'{{"prompt": "{"q" * (n % 3 + 1)}", "completion": "{"a" * (n % 7 + 1)}"}}\n'
        for n in range(40)
    )
    rows.write_text("".join(lines))
    curves = []
    for batch_size in (4, 1):
        data = InstructionDataModule(
            [str(rows)],
            chat_template="plain",
            tokenizer=BYTES,
            pack=pack,
            batch_size=batch_size,
            global_batch_size=4,
            cache_dir=str(tmp_path / "cache"),
        )
        curves.append(curve(make_task(LONGER), data, tmp_path))
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)


def test_labelled_rows_likewise(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "{"ab"[n % 2] * (n % 5 + 1)}", "label": {n % 3}}}\n'
                            for n in range(40)))  # fmt: skip
    curves = []
    for batch_size in (4, 1):
        data = ClassificationDataModule(
            [str(rows)],
            tokenizer=BYTES,
            batch_size=batch_size,
            global_batch_size=4,
            cache_dir=str(tmp_path / "cache"),
        )
        make_task()  # seeds
        curves.append(curve(SequenceClassification(LONGER), data, tmp_path))
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)


def test_without_a_trainer_it_says_how_many_micro_batches(make_text: MakeText) -> None:
    data = make_text(batch_size=4, block_size=16, global_batch_tokens=4 * 16 * 3)
    assert data.batches_per_step == 3


# ---- what does not come out even ----


@pytest.mark.parametrize(
    ("size", "num_ranks", "nearest"),
    [
        (100, 1, "batch_size=2 x block_size=16 = 32 tokens; nearest: 96 and 128"),
        (100, 2, "batch_size=2 x block_size=16 x 2 devices = 64 tokens; nearest: 64 and 128"),
        (10, 1, "batch_size=2 x block_size=16 = 32 tokens; nearest: 32"),
    ],
)
def test_names_the_nearest_that_come_out_even(size: int, num_ranks: int, nearest: str) -> None:
    batch = GlobalBatch("global_batch_tokens", size, "tokens")
    with pytest.raises(InputError) as caught:
        batch.num_micro_batches({"batch_size": 2, "block_size": 16}, num_ranks)
    said = f"global_batch_tokens={size} is no whole number of micro-batches of {nearest}"
    assert str(caught.value) == said


def test_each_rank_takes_its_share() -> None:
    batch = GlobalBatch("global_batch_size", 96, "rows")
    assert batch.num_micro_batches({"batch_size": 4}, 8) == 3


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(InputError, match="global_batch_size=0 must be at least 1"):
        GlobalBatch("global_batch_size", 0, "rows")


def test_two_words_for_one_thing_are_refused(make_text: MakeText, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1, accumulate_grad_batches=2)
    with pytest.raises(InputError) as caught:
        trainer.fit(make_task(), make_text(batch_size=2, global_batch_tokens=32))
    assert str(caught.value) == (
        "global_batch_tokens=32 and trainer.accumulate_grad_batches=2 are both given; leave the "
        "latter out, it follows from the former"
    )


def test_a_trainer_may_fit_again(make_text: MakeText, tmp_path: Path) -> None:
    data = make_text(batch_size=2, global_batch_tokens=64)
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(make_task(), data)
    data.batch_size = 1
    trainer.fit_loop.epoch_loop.max_steps = 2
    trainer.fit(make_task(), data)
    assert trainer.accumulate_grad_batches == 8

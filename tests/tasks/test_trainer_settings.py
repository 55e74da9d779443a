"""Arguments of the Trainer that would train wrongly are refused, or do what Lightning says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lit_gpt_kit import ClassificationDataModule, SequenceClassification, TextDataModule
from lit_gpt_kit.errors import InputError
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]


class Rows(Callback):
    """The first tokens of each micro-batch."""

    def __init__(self) -> None:
        self.read: list[list[list[int]]] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        self.read.append(batch["input_ids"].tolist())


# ---- refused ----


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"gradient_clip_val": -1.0},
            "trainer.gradient_clip_val=-1.0 must be at least 0: a negative norm would turn the "
            "gradient round, and train uphill",
        ),
        (
            {"accumulate_grad_batches": 0},
            "trainer.accumulate_grad_batches=0 must be at least 1",
        ),
        (
            {"limit_train_batches": 3, "accumulate_grad_batches": 2},
            "trainer.limit_train_batches=3 ends an epoch after 3 micro-batches, within a step of "
            "2: the rest of its rows would never be read; nearest: 2 and 4",
        ),
        (
            {"overfit_batches": 1, "accumulate_grad_batches": 2},
            "trainer.overfit_batches=1 ends an epoch after 1 micro-batches, within a step of "
            "2: the rest of its rows would never be read; nearest: 2",
        ),
        (
            {"limit_train_batches": 0},
            "trainer.limit_train_batches=0 leaves nothing to train on; leave it out",
        ),
        (
            {"callbacks": [GradientAccumulationScheduler({0: 1, 1: 3})]},
            "GradientAccumulationScheduler changes how many rows a step reads, by which rows are "
            "numbered: some would be read twice, others never; leave it out, and have steps grow "
            "with TextDataModule's batch_warmup",
        ),
    ],
)
def test_refused_before_the_first_step(
    options: dict[str, Any], complaint: str, make_data: MakeData, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, 2, **options)
    with pytest.raises(InputError) as caught:
        trainer.fit(make_task(), make_data())
    assert str(caught.value) == complaint
    assert trainer.global_step == 0


def test_a_share_of_the_batches_is_refused_likewise(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    trainer = make_trainer(tmp_path, 1, limit_train_batches=0.5, accumulate_grad_batches=4)
    with pytest.raises(InputError, match=r"limit_train_batches=0\.5 ends an epoch after") as caught:
        trainer.fit(make_task(), data)
    half = len(data.train_dataloader()) // 2
    assert f"after {half} micro-batches, within a step of 4" in str(caught.value)


def test_what_harms_nothing_is_not_refused(make_data: MakeData, tmp_path: Path) -> None:
    for options in (
        {"limit_train_batches": 4, "accumulate_grad_batches": 2},
        {"limit_train_batches": 1_000_001, "accumulate_grad_batches": 2},
        {"fast_dev_run": 1, "accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.0},
    ):
        trainer = make_trainer(tmp_path, 2, limit_val_batches=0, **options)
        trainer.fit(make_task(), make_data())
        assert trainer.global_step == (1 if "fast_dev_run" in options else 2)


def test_half_precision_throughout_is_warned_of(make_data: MakeData, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1, precision="16-true", limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"^precision=16-true: .* AdamW's eps of 1e-8"):
        trainer.fit(make_task(), make_data())
    assert torch.tensor(1e-8).half() == 0  # why
    assert torch.tensor(1e-6).half() > 0


# ---- overfit_batches ----


def test_overfitting_reads_the_same_batches_each_epoch(make_data: MakeData, tmp_path: Path) -> None:
    rows = Rows()
    data = make_data()
    options = {"overfit_batches": 4, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    trainer = make_trainer(tmp_path, 5, callbacks=[rows], **options)
    trainer.fit(make_task(), data)
    assert len(rows.read) == 10
    assert rows.read[:4] == rows.read[4:8]
    assert rows.read[8:] == rows.read[:2]
    assert all(rows.read.count(batch) > 1 for batch in rows.read)
    assert rows.read[0] != rows.read[1] != rows.read[2]
    assert data.rows_of_step(2) == data.rows_of_step(0) != data.rows_of_step(1)

    # A run that stopped in mid-epoch goes on with the batch that is next.
    path, again = tmp_path / "three.ckpt", Rows()
    first = make_trainer(tmp_path, 3, **options)
    first.fit(make_task(), make_data())
    first.save_checkpoint(path)
    trainer = make_trainer(tmp_path, 5, callbacks=[again], **options)
    trainer.fit(make_task(), make_data(), ckpt_path=path, weights_only=True)
    assert again.read == rows.read[6:]


def test_overfitting_rows_with_labels(
    make_rows: Callable[..., ClassificationDataModule], tmp_path: Path
) -> None:
    rows, data = Rows(), make_rows()
    trainer = make_trainer(
        tmp_path, 3, callbacks=[rows], overfit_batches=1, limit_val_batches=0, max_epochs=-1
    )
    trainer.fit(SequenceClassification(TINY), data)
    assert rows.read[0] == rows.read[1] == rows.read[2]
    assert data.rows_of_step(2) == data.rows_of_step(0)


def test_a_limit_reads_on_through_the_data(make_data: MakeData, tmp_path: Path) -> None:
    limited, whole = Rows(), Rows()
    for rows, options in ((limited, {"limit_train_batches": 2}), (whole, {})):
        trainer = make_trainer(tmp_path, 5, callbacks=[rows], limit_val_batches=0, **options)
        trainer.fit(make_task(), make_data())
    assert limited.read == whole.read

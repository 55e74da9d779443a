"""Lightning's complaints in our words, from what Lightning says itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from lit_gpt_kit.cli.lightning_words import reword
from tests.tiny import make_trainer


class Model(BoringModel):
    def validation_step(self, *args: Any) -> None:
        self.log("val/loss", torch.tensor(1.0))


def complaint_of(run: Callable[[], Any]) -> str | None:
    with pytest.raises((ValueError, RuntimeError, MisconfigurationException)) as caught:
        run()
    return reword(str(caught.value))


def test_arguments_of_the_trainer() -> None:
    said = complaint_of(lambda: Trainer(strategy="dpp"))
    assert said == "trainer.strategy='dpp' is no strategy; did you mean 'ddp'?"
    said = complaint_of(lambda: Trainer(accelerator="gpuu"))
    assert said == "trainer.accelerator='gpuu' is no accelerator; did you mean 'gpu'?"
    said = complaint_of(lambda: Trainer(accelerator="cpu", limit_train_batches=-3))
    assert said is not None
    assert said.startswith("trainer.limit_train_batches=-3 must be a share from 0.0 to 1.0, or")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"val_check_interval": 100},
            "trainer.val_check_interval=100 is more than the 64 micro-batches of an epoch; lower "
            "it, or set trainer.check_val_every_n_epoch to null, which counts over epochs' ends",
        ),
        (
            {"callbacks": [ModelCheckpoint(monitor="val/los")]},
            "ModelCheckpoint: there is no metric 'val/los'; did you mean 'val/loss'?",
        ),
        (
            {"callbacks": [EarlyStopping(monitor="val_loss")]},
            "EarlyStopping: there is no metric 'val_loss'; did you mean 'val/loss'?",
        ),
    ],
)
def test_what_only_a_run_shows(options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    options = {"limit_val_batches": 1, "enable_checkpointing": True, **options}
    trainer = make_trainer(tmp_path, 64, **options)
    assert complaint_of(lambda: trainer.fit(Model())) == expected


def test_others_are_left_alone() -> None:
    assert reword("something else") is None

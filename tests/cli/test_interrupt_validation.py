"""Ctrl-C at a step that is validated: the validation is completed, saved, and not repeated.

Nor is its score lost: what is best is what it would be if the run had never stopped.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_gpt_kit import TextDataModule, TokenizerConfig
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.checkpoints.sealed_io import AsyncSealedCheckpointIO, SealedCheckpointIO
from lit_gpt_kit.cli.defaults import complete_callbacks
from lit_gpt_kit.cli.interrupt import StopOnInterrupt
from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from tests.run_dir import read_metrics
from tests.tiny import make_task, make_trainer

STEPS, VALIDATED = 8, 4


class PressCtrlC(Callback):
    """Asks for a stop within the step that is validated, or within the validation."""

    def __init__(self, stop: StopOnInterrupt, hook: str) -> None:
        def press(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step in (VALIDATED - 1, VALIDATED) and not trainer.sanity_checking:
                stop.signal_number = signal.SIGINT

        setattr(self, hook, press)


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[[], TextDataModule]:
    (tmp_path / "poem.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)

    def make() -> TextDataModule:
        sources, cache = [str(tmp_path / "poem.txt")], str(tmp_path / "cache")
        return TextDataModule(
            sources, tokenizer=TokenizerConfig("byte"), batch_size=4, cache_dir=cache
        )

    return make


def fit(
    data: TextDataModule,
    folder: Path,
    hook: str | None,
    ckpt_path: Path | None,
    mode: str = "min",
    writer: type[SealedCheckpointIO] = SealedCheckpointIO,
) -> Any:
    last = LastCheckpoint(folder)
    task = make_task()
    task.monitor_mode = mode
    # Configured ones come first, and yet the last checkpoint is to hold the score of the best.
    callbacks = complete_callbacks([last], "fit", folder, task, silent=True)
    kept = [
        c for c in callbacks if isinstance(c, LastCheckpoint | StopOnInterrupt | ModelCheckpoint)
    ]
    (stop,) = (c for c in kept if isinstance(c, StopOnInterrupt))
    pressing = [] if hook is None else [PressCtrlC(stop, hook)]
    trainer = make_trainer(
        folder,
        STEPS,
        callbacks=[*pressing, *kept],
        logger=MetricsCSV(folder),
        enable_checkpointing=True,
        val_check_interval=VALIDATED,
        check_val_every_n_epoch=None,
        plugins=[writer()],
    )
    if hook is None:
        trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    else:
        with pytest.raises(SystemExit):
            trainer.fit(task, data)
        assert trainer.global_step == VALIDATED
    return task


@pytest.mark.parametrize(
    ("hook", "mode", "writer"),
    [
        ("on_train_batch_start", "min", SealedCheckpointIO),
        ("on_validation_batch_start", "max", SealedCheckpointIO),
        ("on_validation_batch_start", "max", AsyncSealedCheckpointIO),
    ],
)
def test_validation_is_kept(
    hook: str,
    mode: str,
    writer: type[SealedCheckpointIO],
    make_data: Callable[[], TextDataModule],
    tmp_path: Path,
) -> None:
    through = fit(make_data(), tmp_path / "through", None, None, mode)
    stopped = tmp_path / "stopped"
    fit(make_data(), stopped, hook, None, mode, writer)
    assert read_metrics(stopped)[-1]["val/loss"] > 0
    assert score(stopped / "checkpoints" / "best.ckpt")[0] == VALIDATED
    task = fit(make_data(), stopped, None, stopped / "last.ckpt", mode, writer)
    assert (stopped / "metrics.csv").read_text() == (
        tmp_path / "through" / "metrics.csv"
    ).read_text()
    for name, value in through.state_dict().items():
        assert torch.equal(value, task.state_dict()[name]), name
    through_to = tmp_path / "through"
    assert score(through_to / "checkpoints" / "best.ckpt")[0] == best_step(mode)
    for file in ("checkpoints/best.ckpt", "last.ckpt"):
        assert score(stopped / file) == score(through_to / file)


def best_step(mode: str) -> int:
    return VALIDATED if mode == "max" else STEPS


def score(checkpoint: Path) -> tuple[int, float]:
    """The step of a checkpoint, and what it says the best score is."""
    content = torch.load(checkpoint, weights_only=True)
    (state,) = (s for n, s in content["callbacks"].items() if n.startswith("ModelCheckpoint"))
    return content["global_step"], float(state["best_model_score"])

"""LastCheckpoint: when last.ckpt is written, and what a run that goes on from it does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lit_gpt_kit import TextDataModule, TokenizerConfig
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from tests.run_dir import read_metrics
from tests.tiny import make_task, make_trainer

VALIDATED = {"val_check_interval": 2, "check_val_every_n_epoch": None}
BEST: dict[str, Any] = {"save_on_train_epoch_end": False, "save_top_k": 1}


class RecordSaves(Callback):
    """The step at each saving, and where in the run it was."""

    def __init__(self) -> None:
        self.saves: list[tuple[int, str]] = []
        self.place = "training"

    def on_validation_start(self, *args: Any) -> None:
        self.place = "validation"

    def on_train_batch_start(self, *args: Any) -> None:
        self.place = "training"

    def on_train_epoch_end(self, *args: Any) -> None:
        self.place = "end"

    def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
        self.saves.append((trainer.global_step, self.place))


class StopInValidation(Callback):
    """Saves in the middle of the validation that follows a step, and interrupts the run."""

    def __init__(self, step: int, checkpoint: LastCheckpoint) -> None:
        self.step, self.checkpoint = step, checkpoint

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step and args[3] == 1:
            self.checkpoint.save(trainer)
            raise KeyboardInterrupt


class RecordValidations(Callback):
    """val/loss of each validation, by step."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self.losses[trainer.global_step] = float(trainer.callback_metrics["val/loss"])


@pytest.fixture
def data(tmp_path: Path) -> TextDataModule:
    path = tmp_path / "poem.txt"
    path.write_text("the quick brown fox jumps over the lazy dog and runs away from it\n" * 40)
    return TextDataModule(
        sources=[str(path)],
        tokenizer=TokenizerConfig("byte"),
        batch_size=4,
        cache_dir=str(tmp_path / "cache"),
    )


def fit(
    folder: Path, data: TextDataModule, max_steps: int, *callbacks: Callback, **options: Any
) -> Trainer:
    ckpt_path = options.pop("ckpt_path", None)
    trainer = make_trainer(
        folder, max_steps, callbacks=list(callbacks), enable_checkpointing=True, **options
    )
    trainer.fit(make_task(), data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def saves(folder: Path, data: TextDataModule, every_n_steps: int = 0, **options: Any) -> Any:
    """Steps and places of the savings in a run of five steps."""
    record, checkpoint = RecordSaves(), LastCheckpoint(folder / "checkpoints", every_n_steps)
    fit(folder, data, 5, record, checkpoint, **options)
    return record.saves


def saved(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoints" / "last.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def test_saved_at_the_end_of_training(tmp_path: Path, data: TextDataModule) -> None:
    assert saves(tmp_path, data, limit_val_batches=0) == [(5, "training")]
    assert saved(tmp_path)["global_step"] == 5


def test_saved_after_each_validation(tmp_path: Path, data: TextDataModule) -> None:
    expected = [(2, "validation"), (4, "validation"), (5, "training")]
    assert saves(tmp_path, data, **VALIDATED) == expected


def test_the_end_is_not_saved_twice(tmp_path: Path, data: TextDataModule) -> None:
    options = {**VALIDATED, "val_check_interval": 5}
    assert saves(tmp_path, data, **options) == [(5, "validation")]


def test_saved_every_n_steps(tmp_path: Path, data: TextDataModule) -> None:
    expected = [(2, "training"), (4, "training"), (5, "training")]
    assert saves(tmp_path, data, every_n_steps=2, limit_val_batches=0) == expected


def test_steps_are_counted_not_micro_batches(tmp_path: Path, data: TextDataModule) -> None:
    options: dict[str, Any] = {"limit_val_batches": 0, "accumulate_grad_batches": 3}
    expected = [(2, "training"), (4, "training"), (5, "training")]
    assert saves(tmp_path, data, every_n_steps=2, **options) == expected


def test_a_validations_score_is_saved_though_the_step_is(
    tmp_path: Path, data: TextDataModule
) -> None:
    expected = [
        (2, "validation"),
        (2, "validation"),
        (4, "validation"),
        (4, "validation"),
        (5, "training"),
    ]
    assert saves(tmp_path, data, every_n_steps=2, **VALIDATED) == expected


def test_sanity_check_and_evaluation_save_nothing(tmp_path: Path, data: TextDataModule) -> None:
    options: dict[str, Any] = {"num_sanity_val_steps": 2, "val_check_interval": 5}
    assert saves(tmp_path, data, **VALIDATED | options) == [(5, "validation")]
    record, checkpoint = RecordSaves(), LastCheckpoint(tmp_path / "elsewhere")
    trainer = make_trainer(tmp_path, 5, callbacks=[record, checkpoint], enable_checkpointing=True)
    trainer.validate(make_task(), data)
    assert record.saves == []
    assert not checkpoint.path.exists()


def test_a_trial_run_saves_nothing(tmp_path: Path, data: TextDataModule) -> None:
    assert saves(tmp_path, data, every_n_steps=1, fast_dev_run=2) == []
    assert not (tmp_path / "checkpoints").exists()


def run_validated(
    folder: Path, data: TextDataModule, **options: Any
) -> tuple[Trainer, dict[int, float]]:
    """A run of nine steps and its validation losses."""
    record = RecordValidations()
    trainer = fit(folder, data, 9, LastCheckpoint(folder), record, **options)
    return trainer, record.losses


@pytest.mark.parametrize("stop", [2, 6])
@pytest.mark.parametrize(
    "options",
    [VALIDATED, {"accumulate_grad_batches": 2, "val_check_interval": 1.0}],
    ids=["in an epoch", "at its end"],
)
def test_a_validation_that_was_stopped_is_repeated(
    stop: int, options: dict[str, Any], tmp_path: Path, data: TextDataModule
) -> None:
    options = {"limit_train_batches": 4, **options}
    through, validations = run_validated(tmp_path / "through", data, **options)
    checkpoint = LastCheckpoint(tmp_path / "stopped")
    with pytest.raises(SystemExit):
        fit(tmp_path, data, 9, checkpoint, StopInValidation(stop, checkpoint), **options)

    record = RecordValidations()
    again = LastCheckpoint(tmp_path / "again", every_n_steps=1)
    torch.manual_seed(12345)  # whatever the new process's random numbers are
    fit(tmp_path, data, stop + 1, again, record, ckpt_path=checkpoint.path, **options)
    # What was saved after the repeated validation goes on as if there had been no stop.
    continued, later = run_validated(tmp_path / "end", data, ckpt_path=again.path, **options)
    assert record.losses.keys() == {stop}
    assert record.losses | later == {s: v for s, v in validations.items() if s >= stop}
    expected = through.lightning_module.state_dict()
    for name, value in continued.lightning_module.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("every_n_steps", [1, 2])
def test_a_validation_that_is_complete_is_not_repeated(
    every_n_steps: int, tmp_path: Path, data: TextDataModule
) -> None:
    best = ModelCheckpoint(
        tmp_path, "best", monitor="val/loss", enable_version_counter=False, **BEST
    )
    fit(tmp_path, data, 4, best, LastCheckpoint(tmp_path, every_n_steps), **VALIDATED)
    for name in ("best", "last"):
        path = tmp_path / f"{name}.ckpt"
        assert torch.load(path, weights_only=True)["global_step"] == 4
        record = RecordValidations()
        fit(tmp_path / name, data, 6, record, ckpt_path=path, **VALIDATED)
        assert record.losses.keys() == {6}


def test_a_step_is_in_metrics_csv_before_it_is_in_a_checkpoint(
    tmp_path: Path, data: TextDataModule
) -> None:
    """Killed in between, a run that goes on would not log it again."""
    rows: dict[int, dict[str, float]] = {}

    class ReadWhatIsLogged(Callback):
        def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
            rows[trainer.global_step] = read_metrics(tmp_path)[-1]

    callbacks = [ReadWhatIsLogged(), LastCheckpoint(tmp_path, every_n_steps=1)]
    fit(tmp_path, data, 5, *callbacks, logger=MetricsCSV(tmp_path), **VALIDATED)
    assert {step: row["step"] for step, row in rows.items()} == {n: n for n in range(1, 6)}
    assert all(row["train/loss"] > 0 for row in rows.values())
    assert {step for step, row in rows.items() if row.get("val/loss", 0) > 0} == {2, 4}
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stop", [3, 4, 5, 13])
def test_a_run_goes_on_with_another_accumulation(
    stop: int, tmp_path: Path, data: TextDataModule
) -> None:
    """An epoch has 9 steps of 8 rows; a validation follows every fourth."""

    def go(folder: str, max_steps: int, batch_size: int, **options: Any) -> dict[str, Tensor]:
        data.batch_size = batch_size
        batches = 8 // batch_size
        trainer = fit(
            tmp_path / folder,
            data,
            max_steps,
            LastCheckpoint(tmp_path / folder),
            accumulate_grad_batches=batches,
            val_check_interval=4 * batches,
            check_val_every_n_epoch=None,
            **options,
        )
        assert trainer.global_step == max_steps
        return trainer.lightning_module.state_dict()

    expected = go("through", 15, 8)
    path = tmp_path / "parts" / "last.ckpt"
    go("parts", stop, 8)
    go("parts", stop + 1, 2, ckpt_path=path)
    actual = go("parts", 15, 4, ckpt_path=path)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-4)

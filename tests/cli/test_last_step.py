"""A run may end between two steps that are logged; its last one is logged as it is."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from tests.command import run
from tests.run_dir import CLOCK, read_metrics

FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps=-1", "--trainer.val_check_interval=100")
BY_TOKENS = "--model.lr_schedule.total_tokens=448"
NORMS = "--trainer.callbacks+=lit_gpt_kit.callbacks.gradient_norms.GradientNorms"


def stop_at_seven(
    callback: Callback, trainer: Trainer, pl_module: LightningModule, *args: Any
) -> None:
    trainer.should_stop = trainer.should_stop or args[-1] == 6


class StopsLate(Callback):
    """Ends a run after seven batches, when the callbacks before it have logged."""

    on_train_batch_end = stop_at_seven


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> str:
    """The option of a clock that runs out after seven batches."""
    monkeypatch.setattr(Timer, "on_train_batch_end", stop_at_seven)
    return "--trainer.max_time=00:01:00:00"


def rows_of(project: Path, *options: str) -> list[dict[str, Any]]:
    name = f"run{len(list(project.glob('run*')))}"
    result = run(project, *FIT, f"--run_dir={name}", *options)
    assert result.status == 0, result.err
    return read_metrics(project / name)


def test_a_run_that_its_schedule_ends(project: Path) -> None:
    (every, fifth) = (
        rows_of(project, BY_TOKENS, NORMS, f"--trainer.log_every_n_steps={n}") for n in (1, 5)
    )
    assert [row["step"] for row in fifth] == [5, 7]
    for row, expected in zip(fifth, (every[4], every[6]), strict=True):
        names = [n for n in expected if n not in CLOCK and "grad_norm/" not in n]
        assert {n: row[n] for n in names} == pytest.approx(
            {n: expected[n] for n in names}, nan_ok=True
        )
    assert fifth[1]["train/step_seconds"] != fifth[0]["train/step_seconds"]
    # Those of a part are measured before it is known that the step is the last.
    assert fifth[0]["train/grad_norm/attention"] == every[4]["train/grad_norm/attention"]
    assert math.isnan(fifth[1]["train/grad_norm/attention"])


def test_a_run_that_the_clock_ends(project: Path, clock: str) -> None:
    options = (clock, "--model.lr_schedule.total_steps=100")
    first, last = rows_of(project, *options, "--trainer.log_every_n_steps=5")
    assert (first["train/tokens"], last["step"], last["train/tokens"]) == (320, 7, 448)
    for name in ("train/loss", "train/lr", "train/step_seconds", "train/grad_norm"):
        assert first[name] != last[name]


@pytest.mark.usefixtures("clock")
def test_a_run_that_outlives_its_stop(project: Path) -> None:
    duration = {"duration": "00:01:00:00"}
    timer = {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": duration}
    (project / "clock.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [timer]}}))
    length = ("--model.lr_schedule.total_steps=100", "--trainer.min_steps=12")
    stopped, true = (
        rows_of(project, *length, *options)
        for options in (
            ("--config=clock.yaml", "--trainer.log_every_n_steps=5"),
            ("--trainer.max_steps=20", "--trainer.log_every_n_steps=1"),
        )
    )
    # Lightning goes on to the end of the epoch, and logs each step.
    assert [row["step"] for row in stopped[:15]] == [5, *range(7, 21)]
    for row in stopped[:15]:
        expected = true[int(row["step"]) - 1]
        for name in ("train/loss", "train/lr", "train/grad_norm", "train/tokens"):
            assert row[name] == expected[name]


def test_a_run_that_ends_within_a_step(project: Path) -> None:
    late = {"class_path": f"{__name__}.StopsLate"}
    norms = {"class_path": "lit_gpt_kit.callbacks.gradient_norms.GradientNorms"}
    (project / "late.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [norms, late]}}))
    options = ("--config=late.yaml", "--model.lr_schedule.total_steps=100")
    rows = rows_of(project, *options, "--trainer.log_every_n_steps=5")
    assert [row["step"] for row in rows] == [5, 7]
    assert math.isnan(rows[1]["train/grad_norm/attention"])
    rows = rows_of(project, *options, "--trainer.accumulate_grad_batches=2")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["val/loss"] > 0

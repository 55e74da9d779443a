"""A run that stopped anywhere and goes on is the run that never stopped, however it is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.command import run
from tests.run_dir import read_metrics, without_speed

BY_EPOCHS = (
    "--trainer.max_steps=-1",
    "--trainer.max_epochs=2",
    "--model.lr_schedule.total_steps=90",
    "--model.gpt.dropout=0.1",
)
"""An epoch of the text is 36 steps, and there is a validation after every third."""


def weights(run_dir: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    return state


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit, weights and metrics."""
    assert without_speed(one) == without_speed(other)
    expected = weights(one)
    assert all(torch.equal(value, expected[name]) for name, value in weights(other).items())


def fit(project: Path, *flags: str) -> str:
    result = run(project, "fit", *flags)
    assert result.status == 0, result.err
    return result.out


@pytest.mark.parametrize("stop", [2, 3, 35, 36, 37])
def test_a_text_read_for_some_epochs(project: Path, stop: int) -> None:
    config = ("--config=tiny.yaml", *BY_EPOCHS)
    fit(project, *config, "--run_dir=through")
    fit(project, *config, "--run_dir=parts", f"--trainer.max_steps={stop}")
    out = fit(project, *config, "--run_dir=parts", "--ckpt_path=last")
    assert f"going on after step {stop}" in out
    assert read_metrics(project / "parts")[-1]["step"] == 72
    assert_same_run(project / "through", project / "parts")


@pytest.mark.parametrize("config", ["classify.yaml", "chat.yaml"])
@pytest.mark.parametrize("stop", [3, 4, 9])
def test_rows_read_for_some_epochs(finetuning: Path, config: str, stop: int) -> None:
    flags = (f"--config={config}", "--trainer.max_epochs=2", "--trainer.logger=true")
    whole = (*flags, "--trainer.max_steps=-1")
    fit(finetuning, *whole, "--run_dir=through")
    fit(finetuning, *flags, f"--trainer.max_steps={stop}", "--run_dir=parts")
    fit(finetuning, *whole, "--run_dir=parts", "--ckpt_path=last")
    assert_same_run(finetuning / "through", finetuning / "parts")


def tokens(total: int) -> tuple[str, ...]:
    """A run of so many tokens, 64 a step."""
    return (
        "--config=tiny.yaml",
        "--trainer.max_steps=-1",
        f"--model.lr_schedule.total_tokens={total}",
        "--model.lr_schedule.min_factor=0.1",
    )


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_of_so_many_tokens(project: Path, stop: int) -> None:
    out = fit(project, *tokens(64 * 7), "--run_dir=through")
    assert "training: 448 tokens, 32-true on cpu" in out
    config = yaml.safe_load((project / "through" / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == -1  # where Lightning would end it after 1000
    parts = (*tokens(64 * 7), "--run_dir=parts")
    fit(project, *parts, f"--trainer.max_steps={stop}")
    fit(project, *parts, "--ckpt_path=last")
    assert [row["step"] for row in read_metrics(project / "parts")] == [1, 2, 3, 4, 5, 6, 7]
    assert_same_run(project / "through", project / "parts")


def test_a_run_that_is_over_stays_so(project: Path) -> None:
    flags = (*tokens(64 * 5), "--run_dir=one")
    fit(project, *flags)
    before, metrics = weights(project / "one"), without_speed(project / "one")
    assert "done: 5 steps" in fit(project, *flags, "--ckpt_path=last")
    assert without_speed(project / "one") == metrics
    assert all(torch.equal(value, before[name]) for name, value in weights(project / "one").items())


def test_tokens_count_though_the_run_was_counted_in_steps(project: Path) -> None:
    fit(project, "--config=tiny.yaml", "--run_dir=one", "--trainer.max_steps=4")
    fit(project, *tokens(64 * 8), "--run_dir=one", "--ckpt_path=last")
    rates: list[Any] = [row["train/lr"] for row in read_metrics(project / "one")]
    fit(project, *tokens(64 * 8), "--run_dir=two")
    assert rates[4:] == [row["train/lr"] for row in read_metrics(project / "two")][4:]
    assert len(rates) == 8

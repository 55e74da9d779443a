"""The W&B run of a run folder, as its .wandb file has it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from lightning.pytorch import LightningModule

from lit_gpt_kit.loggers.wandb import WandbRun
from tests.command import run, write_project
from tests.wandb_file import OfflineRun, offline_runs

FIT = ("fit", "--config", "tiny.yaml", "--run_dir", "one")
AGAIN = ("fit", "--config", "one/config.yaml", "--run_dir", "one", "--ckpt_path", "last")


class Module(LightningModule):
    """What a logger asks for how far it is."""

    num_tokens_seen = 0


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run of six steps that was then continued to nine."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    for command in (FIT, (*AGAIN, "--trainer.max_steps=9")):
        result = run(folder, *command)
        assert result.status == 0, result.err
    return folder


@pytest.fixture(scope="module")
def parts(project: Path) -> list[OfflineRun]:
    return offline_runs(project / "one")


@pytest.mark.usefixtures("fresh_wandb")
def test_a_run_lies_in_its_folder_wherever_the_service_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):  # the second finds a service that was started in folder one
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        logger = WandbRun()
        logger.place_in(Path("run"), "a run", Module())
        logger.log_metrics({"a": 1.0}, step=0)
        wandb.finish()
        (part,) = offline_runs(tmp_path / name / "run")
        assert part.history[0]["a"] == 1.0


def test_every_curve_is_against_tokens(parts: list[OfflineRun]) -> None:
    for name in ("train/loss", "train/lr", "val/loss", "val/perplexity"):
        metric = parts[0].metrics[name] if name in parts[0].metrics else parts[0].metrics["*"]
        assert metric.step_metric == "train/tokens"
    assert [x for x, _ in parts[0].curve("train/loss")] == [64 * step for step in range(1, 7)]
    assert [x for x, _ in parts[0].curve("val/loss")] == [192, 384]
    assert [x for x, _ in parts[0].curve("samples")] == [192, 384]

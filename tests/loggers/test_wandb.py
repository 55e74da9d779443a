"""The W&B run of a run folder lies in it."""

from pathlib import Path

import pytest
import wandb

from lit_gpt_kit.loggers.wandb import build_wandb_logger


@pytest.mark.usefixtures("fresh_wandb")
def test_a_run_lies_in_its_folder_wherever_the_service_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):  # the second finds a service that was started in folder one
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        logger = build_wandb_logger(Path("run"), "a run")
        logger.log_metrics({"a": 1.0})
        wandb.finish()
        (log,) = (tmp_path / name / "run" / "wandb" / "latest-run").glob("*.wandb")
        assert log.stat().st_size > 1000

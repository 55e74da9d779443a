"""Where a run that has just ended lies beside the reference of its config."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer

from lit_gpt_kit.data.base import DataModule
from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from lit_gpt_kit.references.verdict import judge_run


def describe_standing(trainer: Trainer, run_dir: Path) -> str:
    """One line for people; nothing where there is no reference for such a run.

    Args:
        trainer: with the run's data module and loggers.
        run_dir: the run folder, with its config.yaml.
    """
    data: Any = getattr(trainer, "datamodule", None)
    config = run_dir / "config.yaml"
    rows = next((x.rows for x in trainer.loggers if isinstance(x, MetricsCSV)), [])
    if not rows or not isinstance(data, DataModule) or not config.exists():
        return ""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    verdict = judge_run(settings, data.identity["sha256"], rows)
    return "" if verdict is None else str(verdict)

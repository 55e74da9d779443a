"""What is remembered of a run beside its weights: run.json, and W&B's config."""

import csv
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer

from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from lit_gpt_kit.loggers.run_facts import collect_facts, now, read_run, write_run
from lit_gpt_kit.loggers.wandb import WandbRun
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

CURVE_KEYS = ("seed_everything", "model", "data")
"""Of a configuration: what decides the loss of a step."""


class RunRecord:
    """The facts of one run folder.

    Args:
        run_dir: the run folder.
        name: what the run is called.
        checkpoint: what the run starts from, if it starts from one.
        step: the optimiser step of that checkpoint.
    """

    def __init__(self, run_dir: Path, name: str, checkpoint: Path | None, step: int) -> None:
        self.run_dir = run_dir
        self.name = name
        self.checkpoint = checkpoint
        self.step = step

    def place_loggers(self, loggers: Any, module: LightningModule, config_text: str) -> None:
        """Have the W&B run lie in the run folder, and be that of the run that goes on.

        A run that goes on from before its end with another configuration has another curve: it is a
        new W&B run, since what was sent cannot be taken back.
        """
        for logger in loggers if isinstance(loggers, list) else []:
            if isinstance(logger, WandbRun):
                is_same = self._is_same_curve(config_text)
                run_id = read_run(self.run_dir).get("wandb_id") if is_same else None
                logger.place_in(self.run_dir, self.name, module, run_id)

    def begin(self, trainer: Trainer, module: LightningModule, config_text: str) -> None:
        """Write run.json, and tell W&B the same; on the first rank, when all is built."""
        before = read_run(self.run_dir)
        runs = [logger for logger in trainer.loggers if isinstance(logger, WandbRun)]
        wandb_id = runs[0].version if runs else None
        facts = {"started": now(), "name": self.name, **self._facts(trainer, module)}
        facts["wandb_id"] = wandb_id
        record = facts
        if before:
            again = {**facts, "step": self.step, "checkpoint": _text(self.checkpoint)}
            told = {key: v for key, v in again.items() if key == "started" or v != before.get(key)}
            record = {**before, "wandb_id": wandb_id or before.get("wandb_id")}
            record["continued"] = [*before.get("continued", []), told]
        write_run(self.run_dir, record)
        for logger in runs:
            logger.log_config({**yaml.safe_load(config_text), "run": record})
            logger.log_config_file(self.run_dir / "config.yaml")

    def _facts(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        data: Any = getattr(trainer, "datamodule", None)
        identity = getattr(data, "identity", None) or {}
        tokenizer = getattr(module, "tokenizer", None)
        return {
            "data_fingerprint": identity.get("sha256"),
            "tokenizer_hash": tokenizer.fingerprint if isinstance(tokenizer, Tokenizer) else None,
            **collect_facts(),
            "num_ranks": trainer.world_size,
            "lineage": self._lineage(module),
        }

    def _lineage(self, module: Any) -> dict[str, Any]:
        return {}

    def _is_same_curve(self, config_text: str) -> bool:
        path = self.run_dir / "config.yaml"
        if not path.exists() or last_logged_step(self.run_dir / "metrics.csv") <= self.step:
            return True
        configs = [yaml.safe_load(text) for text in (path.read_text(), config_text)]
        before, after = ({key: config.get(key) for key in CURVE_KEYS} for config in configs)
        return before == after


def go_on_with_metrics(trainer: Trainer) -> None:
    """Have metrics.csv drop the rows of steps that are about to be repeated."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.go_on_after(trainer.global_step)


def last_logged_step(path: Path) -> int:
    """The last step of a metrics.csv; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        steps = [row["step"] for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
    return max(map(int, steps), default=0)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)

"""What is remembered of a run beside its weights: run.json, and W&B's config."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer

from lit_gpt_kit.loggers.lineage import describe_lineage
from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from lit_gpt_kit.loggers.metrics_file import FILE, read_metrics
from lit_gpt_kit.loggers.run_facts import collect_facts, now
from lit_gpt_kit.loggers.run_file import read_run, write_run
from lit_gpt_kit.loggers.wandb import WandbRun
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

WANDB_KEYS = ("id", "project", "entity")
CURVE_KEYS = ("seed_everything", "model", "data")
"""Of a configuration: what decides the loss of a step."""


class RunRecord:
    """The facts of one run folder.

    Args:
        run_dir: the run folder.
        name: what the run is called, where it is new.
        checkpoint: what the run starts from, if it starts from one.
        step: the optimiser step of that checkpoint.
    """

    def __init__(self, run_dir: Path, name: str, checkpoint: Path | None, step: int) -> None:
        self.run_dir = run_dir
        # One that goes on may be started from another configuration, or from another folder.
        self.name = str(read_run(run_dir).get("name") or name)
        self.checkpoint = checkpoint
        self.step = step

    def place_loggers(self, loggers: Any, module: LightningModule, config_text: str) -> None:
        """Have the W&B run lie in the run folder, and be that of the run that goes on.

        A run that goes on from before its end with another configuration has another curve: it is a
        new W&B run, since what was sent cannot be taken back.
        """
        for logger in loggers if isinstance(loggers, list) else []:
            if isinstance(logger, WandbRun):
                rows = _read_rows(self.run_dir / FILE)
                known = read_run(self.run_dir)
                place = {key: known.get(f"wandb_{key}") for key in WANDB_KEYS}
                if rows and rows[-1]["step"] > self.step and self._has_other_curve(config_text):
                    rows, place["id"] = [], None
                logger.place_in(self.run_dir, self.name, module, place, rows)

    def begin(self, trainer: Trainer, module: LightningModule, config_text: str) -> None:
        """Write run.json, and tell W&B the same; on the first rank, when all is built."""
        before = read_run(self.run_dir)
        runs = [logger for logger in trainer.loggers if isinstance(logger, WandbRun)]
        where = {f"wandb_{key}": before.get(f"wandb_{key}") for key in WANDB_KEYS}
        if runs:
            where |= {f"wandb_{key}": value for key, value in runs[0].place.items()}
        facts = {"started": now(), "name": self.name, **self._facts(trainer, module)}
        record = {**facts, "lineage": self._lineage(module), **where}
        if before:  # the run goes on: only what is new is told again
            new = {key: value for key, value in facts.items() if value != before.get(key)}
            # It may have begun within the second in which the run did.
            when = {"started": facts["started"], "step": self.step}
            new |= when | {"checkpoint": str(self.checkpoint)}
            continued = [*before.get("continued", []), new]
            record = {**before, **where, "continued": continued}
        write_run(self.run_dir, record)
        for logger in runs:
            logger.log_config({**yaml.safe_load(config_text), "run": record})
            logger.log_config_file(self.run_dir / "config.yaml")
            logger.use_source(record.get("lineage", {}).get("run", {}).get("wandb_artifact"))

    def end(self, trainer: Trainer, exit_status: int = 0) -> None:
        """End the W&B run, when all else was said."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.finish(exit_status)

    def _facts(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        data: Any = getattr(trainer, "datamodule", None)
        identity = getattr(data, "identity", None) or {}
        tokenizer = getattr(module, "tokenizer", None)
        return {
            "data_fingerprint": identity.get("sha256"),
            "tokenizer_hash": tokenizer.fingerprint if isinstance(tokenizer, Tokenizer) else None,
            **collect_facts(),
            "num_ranks": trainer.world_size,
            "num_parameters": sum(parameter.numel() for parameter in module.parameters()),
        }

    def _lineage(self, module: Any) -> dict[str, Any]:
        adapters = getattr(module, "adapters", None)
        pretrained = getattr(module, "pretrained", None)
        return describe_lineage(
            pretrained if isinstance(pretrained, str) else None,
            self.checkpoint,
            None if adapters is None else adapters.origin().base_sha256,
        )

    def _has_other_curve(self, config_text: str) -> bool:
        path = self.run_dir / "config.yaml"
        texts = (path.read_text(encoding="utf-8"), config_text) if path.exists() else ()
        configs = map(yaml.safe_load, texts)
        kept = [{key: config.get(key) for key in CURVE_KEYS} for config in configs]
        return kept[:1] != kept[1:]


def go_on_with_metrics(trainer: Trainer) -> None:
    """Have metrics.csv drop the rows of steps that are about to be repeated."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.go_on_after(trainer.global_step)


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    rows = read_metrics(path).rows.values()
    return [{name: float(cell) for name, cell in row.items()} for row in rows]

"""What an offline W&B run left behind: what `wandb sync` would upload."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from lit_gpt_kit.loggers.wandb_file import read_records

SECONDS_TO_WRITE = 10


@dataclass(frozen=True)
class OfflineRun:
    """A run as W&B would get it from `wandb sync`."""

    path: Path

    @property
    def records(self) -> list[Record]:
        return [Record.FromString(record) for record in read_records(self.path)]

    @property
    def is_whole(self) -> bool:
        return any(record.WhichOneof("record_type") == "exit" for record in self.records)

    @property
    def run(self) -> Any:
        """Who it is: run_id, display_name, project, job_type, run_group, tags, sweep_id."""
        return next(r.run for r in self.records if r.WhichOneof("record_type") == "run")

    @property
    def history(self) -> list[dict[str, Any]]:
        """Its rows."""
        kept = (r.history for r in self.records if r.WhichOneof("record_type") == "history")
        return [_values(row.item) for row in kept]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration after all updates."""
        config: dict[str, Any] = {}
        for record in self.records:
            kind = record.WhichOneof("record_type")
            updates = {"run": record.run.config, "config": record.config}.get(kind)
            config |= _values(updates.update) if updates is not None else {}
        return config

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of each key that the client or the server would show."""
        summary: dict[str, Any] = {}
        for record in self.records:
            if record.WhichOneof("record_type") == "summary":
                summary |= _values(record.summary.update)
        return summary

    @property
    def metrics(self) -> dict[str, Any]:
        """Metric name -> its definition: step_metric, summary.min, summary.max, summary.last."""
        kept = (r.metric for r in self.records if r.WhichOneof("record_type") == "metric")
        return {metric.name or metric.glob_name: metric for metric in kept}

    @property
    def artifacts(self) -> list[Any]:
        """Artifacts that were logged: name, type, aliases, manifest."""
        requests = (r.request for r in self.records if r.WhichOneof("record_type") == "request")
        logged = [q.log_artifact.artifact for q in requests if q.HasField("log_artifact")]
        return [
            *(r.artifact for r in self.records if r.WhichOneof("record_type") == "artifact"),
            *logged,
        ]

    def curve(self, name: str, against: str = "train/tokens") -> list[tuple[Any, Any]]:
        """The points of a curve as it is drawn."""
        return [(row[against], row[name]) for row in self.history if name in row]


def offline_runs(run_dir: Path) -> list[OfflineRun]:
    """The offline runs of a run folder, the oldest first, once they are wholly written."""
    runs = [OfflineRun(path) for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))]
    deadline = time.monotonic() + SECONDS_TO_WRITE
    # W&B's service writes the end of a file after `finish` has come back.
    while not all(run.is_whole for run in runs) and time.monotonic() < deadline:
        time.sleep(0.05)
    return runs


def _values(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        keys = list(item.nested_key) or [item.key]
        inner = values
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = json.loads(item.value_json)
    return values

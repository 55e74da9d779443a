"""Reading a run folder, for tests."""

import csv
from pathlib import Path

CLOCK = (
    "train/tokens_per_second",
    "train/step_seconds",
    "train/data_share",
    "train/mfu",
    "train/peak_memory_bytes",
)
"""What a run logs that no two runs have alike."""
METRICS = (
    "train/loss",
    "train/lr",
    "train/grad_norm",
    "train/tokens",
    *CLOCK,
    "val/loss",
    "val/perplexity",
    "val/bits_per_byte",
)
"""What a language-modeling run logs."""


def only_run(project: Path, name: str = "tiny") -> Path:
    """The one run of a project."""
    folder = project / "runs" / name
    (run,) = (path for path in folder.iterdir() if path.name != "latest")
    return run


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv; an empty cell is NaN."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value or "nan") for name, value in row.items()} for row in rows]


def without_speed(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv as they stand there, less what no two runs have alike."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]

"""What a run folder holds, read from outside: while the run is being written, or long after."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.loggers.metrics_file import FILE, STEP, MetricsFile, read_metrics
from lit_gpt_kit.loggers.run_file import read_run
from lit_gpt_kit.references.verdict import tokens_at
from lit_gpt_kit.report.samples import Sample, parse_samples

TIMESTAMP = re.compile(r"(\d{8}-\d{6})(-\d+)?")
"""What `fit` calls a run folder."""
TOKENS = "train/tokens"
PICTURES = (".png", ".svg")


@dataclass(frozen=True)
class Point:
    """One value of a metric; `tokens` seen before it, or None in a run that counts none."""

    step: int
    tokens: float | None
    value: float


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        name: unlike that of every other run of the report.
        folder: where it lies.
        metrics: of metrics.csv.
        config: the resolved configuration; empty where there is no config.yaml.
        config_text: the same as it stands in the file.
        facts: of run.json; empty where there is none.
        samples: of samples.md, the newest first.
        pictures: the files in plots/.
        spikes: the lines of spikes.csv.
    """

    name: str
    folder: Path
    metrics: MetricsFile
    config: Mapping[str, Any]
    config_text: str
    facts: Mapping[str, Any]
    samples: Sequence[Sample]
    pictures: Sequence[Path]
    spikes: Sequence[Mapping[str, str]]

    @property
    def metric_names(self) -> list[str]:
        """What was logged, in the order of the file."""
        return [name for name in self.metrics.columns if name != STEP]

    def curve(self, name: str) -> list[Point]:
        """A metric through the run; values that are no finite numbers are left out."""
        return [
            Point(step, self._tokens_at(step), value)
            for step, value in self._values(name)
            if math.isfinite(value)
        ]

    def gaps(self, name: str) -> list[Point]:
        """Where stretches begin in which a metric is no finite number; the values are NaN."""
        found, was_finite = [], True
        for step, value in self._values(name):
            is_finite = math.isfinite(value)
            if was_finite and not is_finite:
                found.append(Point(step, self._tokens_at(step), math.nan))
            was_finite = is_finite
        return found

    def steps_without_number(self, name: str) -> list[int]:
        """The steps at which a metric was infinite, or no number."""
        return [step for step, value in self._values(name) if not math.isfinite(value)]

    def _values(self, name: str) -> list[tuple[int, float]]:
        """The steps at which a metric was logged, and what it was."""
        rows = sorted(self.metrics.rows.items())
        return [(step, to_number(cell)) for step, row in rows if (cell := row.get(name))]

    @property
    def num_steps(self) -> int:
        """The last step of which anything is known."""
        return max(self.metrics.rows)

    @property
    def num_tokens(self) -> float | None:
        """Tokens seen by then."""
        return self._tokens_at(self.num_steps)

    @property
    def training_seconds(self) -> float | None:
        """Time spent in steps; validation, sampling and saving do not count."""
        seconds, last_step = 0.0, 0
        for point in self.curve("train/step_seconds"):
            seconds += point.value * (point.step - last_step)
            last_step = point.step
        return seconds if last_step else None

    @property
    def started(self) -> datetime | None:
        """When the run began, by run.json or by the folder's name."""
        with suppress(KeyError, ValueError, TypeError):
            return datetime.fromisoformat(self.facts["started"]).astimezone(UTC)
        found = TIMESTAMP.fullmatch(self.folder.name)
        if found is None:
            return None
        return datetime.strptime(found[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)

    def _tokens_at(self, step: int) -> float | None:
        return tokens_at(step, self._known_tokens) if len(self._known_tokens) > 1 else None

    @cached_property
    def _known_tokens(self) -> list[tuple[float, float]]:
        known = {step: to_number(row.get(TOKENS)) for step, row in self.metrics.rows.items()}
        steps = [step for step in sorted(known) if step and math.isfinite(known[step])]
        return [(0.0, 0.0), *((float(step), known[step]) for step in steps)]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of these folders, in their order; a folder that is named twice is one run.

    Raises:
        MissingFileError: a folder is not there, or is not that of a run.
        InputError: a run has logged nothing yet.
    """
    # A glob gives `latest` beside the folder that it points to.
    unique = list(dict.fromkeys(_find(folder) for folder in folders))
    facts = [read_run(folder) for folder in unique]
    names = _unique_names(unique, [str(fact.get("name") or "") for fact in facts])
    return [_read_run(*given) for given in zip(unique, names, facts, strict=True)]


def to_number(cell: str | None) -> float:
    """A cell of metrics.csv; NaN where it is empty, or no number."""
    with suppress(ValueError):
        return float(cell or "nan")
    return math.nan


def _find(folder: Path) -> Path:
    if not folder.exists():
        raise MissingFileError(f"run folder {folder} does not exist (from {Path.cwd()})")
    if folder.is_file():
        raise InputError(f"{folder} is a file; name the run folder that holds {FILE}")
    if not (folder / FILE).is_file():
        raise MissingFileError(
            f"{folder} holds no {FILE}, which `lit-gpt fit` writes into a run folder"
            f"{_below(folder)}"
        )
    return folder.resolve()


def _below(folder: Path) -> str:
    """Where a person may have meant to point, who named the folder above it."""
    runs = sorted(
        path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{FILE}")
    )
    return f"; did you mean {runs[-1]}?" if runs else "; name one that has been trained in"


def _unique_names(folders: Sequence[Path], given: Sequence[str]) -> list[str]:
    """The name that the run gave itself, or its folder's, with folders above it as they are needed.

    A time alone says nothing; the folder above it has the configuration's name.
    """
    for depth in count(1):
        names = []
        for folder, name in zip(folders, given, strict=True):
            is_time = TIMESTAMP.fullmatch(folder.name) is not None
            path = "/".join(folder.parts[-depth - is_time :])
            names.append(name if name and given.count(name) == 1 else path)
        if len(set(names)) == len(names):
            return names
    raise AssertionError("two folders have the same path")


def _read_run(folder: Path, name: str, facts: Mapping[str, Any]) -> Run:
    metrics = read_metrics(folder / FILE)
    if not metrics.rows:
        raise InputError(
            f"{folder / FILE} holds no whole line of metrics; wait for the first logged step "
            "(trainer.log_every_n_steps), or name another run"
        )
    config_text = _read_text(folder / "config.yaml")
    config: Any = {}
    with suppress(yaml.YAMLError):
        config = yaml.safe_load(config_text)
    pictures = (folder / "plots").glob("**/*")
    return Run(
        name=name,
        folder=folder,
        metrics=metrics,
        config=config if isinstance(config, dict) else {},
        config_text=config_text,
        facts=facts,
        samples=parse_samples(_read_text(folder / "samples.md")),
        pictures=sorted(path for path in pictures if path.suffix in PICTURES),
        spikes=list(csv.DictReader(StringIO(_read_text(folder / "spikes.csv")))),
    )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

"""Lets contestants take turns, each turn in a process of its own, and keeps every figure."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_gpt_kit.files import write_atomically
from tests.benchmarks.contestants.assignment import REPOSITORY, Assignment


@dataclass(frozen=True)
class Contestant:
    """Who takes part."""

    name: str
    module: str
    """Its file below `contestants`."""
    precision: str = "bf16"
    python: str = sys.executable
    is_ours: bool = False


@dataclass
class Turns:
    """All turns of one run."""

    heading: dict[str, Any]
    """What else the file of figures says."""
    output: Path | None = None
    """That file, written after each turn: a run that is stopped loses nothing."""
    figures: list[dict[str, Any]] = field(default_factory=list)

    def take(
        self, contestant: Contestant, section: str, number: int, assignment: Assignment
    ) -> None:
        """Let a contestant do its turn of a round; one that fails is named with its complaint."""
        row: dict[str, Any] = {
            "section": section,
            "contestant": contestant.name,
            "size": assignment.size,
        }
        row |= {"round": number, "assignment": asdict(assignment)}
        self.add(row | answer_of(contestant, assignment))

    def add(self, row: dict[str, Any]) -> None:
        """Keep the figures of a turn."""
        self.figures.append(row)
        shown = [
            f"{key} {row[key]}"
            for key in ("tokens_per_second", "wall_seconds", "loss", "error")
            if row.get(key)
        ]
        print(
            f"{row['section']}, {row['size']}, {row['contestant']}: {', '.join(shown)}", flush=True
        )
        if self.output is not None:
            write_atomically(
                self.output, json.dumps(self.heading | {"turns": self.figures}, indent=1)
            )

    def of(self, section: str, contestant: str, size: str, figure: str) -> dict[int, float]:
        """What a contestant reached in each round; a round without the figure is left out."""
        return {
            row["round"]: row[figure]
            for row in self.figures
            if (row["section"], row["contestant"], row["size"]) == (section, contestant, size)
            and row.get(figure) is not None
        }


def median(figures: dict[int, float]) -> float | None:
    """Of all rounds; None where there is none."""
    return statistics.median(figures.values()) if figures else None


def median_ratio(figures: dict[int, float], others: dict[int, float]) -> float | None:
    """Median of the rounds' own ratios: a slow moment of the machine hits both of a round."""
    return median({number: figures[number] / others[number] for number in figures.keys() & others})


def answer_of(contestant: Contestant, assignment: Assignment) -> dict[str, Any]:
    """The figures of one turn and its `wall_seconds`; or its `error`, the complaint's last line."""
    module = f"tests.benchmarks.contestants.{contestant.module}"
    command = [contestant.python, "-m", module, assignment.to_json()]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(assignment.threads),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(REPOSITORY),
    }
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    wall_seconds = time.perf_counter() - start
    if done.returncode:
        return {"error": last_line(done.stderr)}
    figures: dict[str, Any] = json.loads(last_line(done.stdout))
    return {"wall_seconds": wall_seconds} | figures


def last_line(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines() or ["nothing was said"]
    return lines[-1]

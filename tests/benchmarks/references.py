"""The references of lit_gpt_kit/references: a config's curves over several seeds.

Runs `lit-gpt fit` once for each seed, or takes up the runs that are there, and says where they end.
With --write they become a reference. Options of `fit` stand at the end, behind `--`:

    python -m tests.benchmarks.references --config configs/shakespeare-char.yaml --seeds 0 1 2 3 4 \
        --write -- --trainer.val_check_interval=105

A run is compared in a line between two validations, so let these be near one another; and let the
seeds have the config's own among them, so that it is never called unusual.
"""

import argparse
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_gpt_kit import __version__
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.loggers.metrics_file import FILE, read_metrics
from lit_gpt_kit.references import reference
from lit_gpt_kit.references.matching import shaping_settings
from lit_gpt_kit.references.reference import Reference, prediction_interval, read_reference
from lit_gpt_kit.references.verdict import read_curve, tokens_per_step
from tests.benchmarks.machine import processor, versions
from tests.benchmarks.tables import table

FOLDER = Path(reference.__file__).parent
METRICS = ("train/loss", "val/loss")
MOST_POINTS = 32
"""A curve with more is thinned: a reference is read by people, too."""
DIGITS = 5
FINISHED = "finished"
"""Lies in the folder of a run that came to its end."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table, write the reference."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/references"), metavar="FOLDER")
    parser.add_argument("--write", type=Path, nargs="?", const=FOLDER, metavar="FOLDER")
    options, given = parser.parse_args(words[:end]), words[end + 1 :]
    for seed in options.seeds:
        run(options.config, seed, _run_dir(options, seed), given)
    run_dirs = [_run_dir(options, seed) for seed in options.seeds]
    text = describe(run_dirs, options.seeds, options.config, given)
    found = read_reference(options.config.stem, text)
    print(summarise(found))
    if options.write is not None:
        path = options.write / f"{found.name}.yaml"
        write_atomically(path, text)
        print(f"written to {path}, {len(text):,} bytes")


def run(config: Path, seed: int, run_dir: Path, given: Sequence[str]) -> None:
    """Train with a seed, or go on where that was stopped, unless it is done."""
    if (run_dir / FINISHED).exists():
        return
    print(f"seed {seed}", flush=True)
    command = ["lit-gpt", "fit", "--config", str(config), *given, f"--seed_everything={seed}"]
    command += [f"--run_dir={run_dir}", "--trainer.logger=[]"]
    if (run_dir / "checkpoints" / "last.ckpt").exists():
        command.append("--ckpt_path=last")
    subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True)
    (run_dir / FINISHED).touch()


def describe(
    run_dirs: Sequence[Path], seeds: Sequence[int], config: Path, given: Sequence[str]
) -> str:
    """A reference as its file holds it.

    Args:
        run_dirs: the finished runs, one a seed.
        seeds: theirs.
        config: what they ran.
        given: options besides.
    """
    settings = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in run_dirs]
    shaping = [shaping_settings(each) for each in settings]
    assert all(each == shaping[0] for each in shaping), "the runs have other settings"
    prints = {_fingerprint(folder) for folder in run_dirs}
    assert len(prints) == 1, "the runs have other data"
    rows = [list(read_metrics(folder / FILE).rows.values()) for folder in run_dirs]
    content = {
        "provenance": _provenance(config, seeds, given, settings[0]["trainer"]["precision"]),
        "data_fingerprint": prints.pop(),
        "tokens_per_step": round(statistics.fmean(tokens_per_step(each) or 0 for each in rows), 1),
        "settings": shaping[0],
        "curves": {metric: gather([read_curve(r, metric) for r in rows]) for metric in METRICS},
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def gather(curves: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """The curves of several seeds, thinned so that the last point stays.

    Args:
        curves: of one metric, each with as many points as the others.
    """
    num_points = {len(curve) for curve in curves}
    assert len(num_points) == 1, f"the runs have {num_points} points"
    step = -(-len(curves[0]) // MOST_POINTS)
    kept = list(zip(*(curve[::-step][::-1] for curve in curves), strict=True))
    tokens = [statistics.fmean(t for t, _ in point) for point in kept]
    values = [[round(v, DIGITS) for _, v in curve[::-step][::-1]] for curve in curves]
    return {"tokens": [round(t) for t in tokens], "values": values}


def summarise(found: Reference) -> str:
    """A row for the page: how the seeds end, and where one more should."""
    last = [values[-1] for values in found.seeds["val/loss"]]
    low, mean, high = prediction_interval(last)
    inside, count = coverage(found.seeds["val/loss"])
    row = [
        f"`{found.name}`",
        str(len(last)),
        f"{mean:.4f}",
        f"{statistics.stdev(last):.4f}",
        f"{min(last):.4f} to {max(last):.4f}",
        f"{low:.4f} to {high:.4f}",
    ]
    head = ["config", "seeds", "val/loss, mean", "sd", "lowest to highest", "band"]
    left_out = f"{inside} of {count} values of a seed left out lie in the band of the others"
    if not count:
        left_out = "too few seeds to leave one out"
    return f"{table(head, [row])}\n\n{left_out}"


def coverage(seeds: Sequence[Sequence[float]]) -> tuple[int, int]:
    """How many values of each seed lie in the band of all others, and how many there are."""
    inside = count = 0
    for values in zip(*seeds, strict=True):
        for index, value in enumerate(values):
            others = [v for n, v in enumerate(values) if n != index]
            if len(others) >= reference.FEWEST_SEEDS:
                low, _, high = prediction_interval(others)
                inside += low <= value <= high
                count += 1
    return inside, count


def _run_dir(options: argparse.Namespace, seed: int) -> Path:
    folder: Path = options.runs / options.config.stem / f"seed{seed}"
    return folder


def _fingerprint(run_dir: Path) -> str:
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True, mmap=True)
    return str(last["lit_gpt_kit"]["data"]["sha256"])


def _provenance(
    config: Path, seeds: Sequence[int], given: Sequence[str], precision: str
) -> dict[str, Any]:
    # Where the data lie says nothing; the fingerprint says what they are.
    shown = [word for word in given if not word.startswith("--data.sources")]
    command = ["lit-gpt", "fit", "--config", f"configs/{config.name}", *shown]
    known = {name: number for name, number in versions().items() if name in ("Python", "torch")}
    return {
        "command": shlex.join(command),
        "seeds": list(seeds),
        "date": str(datetime.now(UTC).date()),
        "precision": precision,
        "hardware": processor(),
        "versions": {**known, "lightning": version("lightning"), "lit-gpt-kit": __version__},
    }


if __name__ == "__main__":
    main()

"""The table of the runs: what each one is and what came of it."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lit_gpt_kit.loggers.direction import direction
from lit_gpt_kit.report.run import Run

DERIVED = ("val/loss", "val/perplexity", "val/bits_per_byte")
UNKNOWN = ""


def tabulate(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """The heads of the columns, and a line a run; columns of which nothing is known are absent."""
    names = dict.fromkeys(name for run in runs for name in run.metric_names)
    metrics = [name for name in names if name.startswith("val/") and not is_derived(name, names)]
    lines = [_describe(run) | _last_values(run, metrics) for run in runs]
    heads = [head for head in lines[0] if any(line[head] != UNKNOWN for line in lines)]
    return heads, [[line[head] for head in heads] for line in lines]


def last_and_best(run: Run) -> list[tuple[str, str, str, str]]:
    """Of every metric its name, last value, and best value and where that was if one is better."""
    lines = []
    for name in run.metric_names:
        points = run.curve(name)
        if not points:
            continue
        best, where = UNKNOWN, UNKNOWN
        better = direction(name)
        if better is not None:
            choose = min if better is min else max
            at = choose(points, key=lambda point: point.value)
            best, where = show_number(at.value), f"step {at.step:,}"
        lines.append((name, show_number(points[-1].value), best, where))
    return lines


def is_derived(name: str, names: Iterable[str]) -> bool:
    """Whether a metric says what another one does, or is that of one label alone."""
    return name in DERIVED or any(name.startswith(f"{other}_") for other in names)


def show_number(value: float) -> str:
    """Four digits that matter; whole thousands and more in full."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _describe(run: Run) -> dict[str, str]:
    losses = run.curve("val/loss")
    best = min(losses, key=lambda point: point.value, default=None)
    rates = [point.value for point in run.curve("train/tokens_per_second")]
    seconds = run.training_seconds
    return {
        "run": run.name,
        "started": f"{run.started:%Y-%m-%d %H:%M} UTC" if run.started else UNKNOWN,
        "model": _model(run),
        "steps": f"{run.num_steps:,}",
        "tokens": UNKNOWN if run.num_tokens is None else f"{run.num_tokens:,.0f}",
        "best val/loss": f"{best.value:.4f} at step {best.step:,}" if best else UNKNOWN,
        "last val/loss": f"{losses[-1].value:.4f}" if losses else UNKNOWN,
        "training": UNKNOWN if seconds is None else str(timedelta(seconds=round(seconds))),
        "tokens/s": f"{statistics.median(rates):,.0f}" if rates else UNKNOWN,
        "device": _device(run),
    }


def _last_values(run: Run, metrics: Sequence[str]) -> dict[str, str]:
    curves = {name: run.curve(name) for name in metrics}
    return {
        f"last {name}": show_number(points[-1].value) if points else UNKNOWN
        for name, points in curves.items()
    }


def _model(run: Run) -> str:
    parameters = run.facts.get("num_parameters")
    if isinstance(parameters, int):
        return f"{parameters:,} parameters"
    task = run.config.get("model")
    arguments: Any = task.get("init_args") if isinstance(task, dict) else None
    if not isinstance(arguments, dict):
        return UNKNOWN
    if arguments.get("pretrained"):
        model = Path(str(arguments["pretrained"]))
        return model.name if model.is_absolute() else str(model)
    gpt = arguments.get("gpt")
    if not isinstance(gpt, dict):
        return UNKNOWN
    return f"{gpt.get('num_layers')} layers, width {gpt.get('embed_dim')}"


def _device(run: Run) -> str:
    """The GPUs, or the processor where there are none."""
    hardware = run.facts.get("hardware")
    if not isinstance(hardware, dict):
        return UNKNOWN
    gpus = [gpu["name"] for gpu in hardware.get("gpus") or []]
    counted = [f"{count} x {name}" for name, count in Counter(gpus).items()]
    return ", ".join(counted) or str(hardware.get("cpu") or UNKNOWN)

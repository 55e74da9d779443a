"""Which metrics belong into one chart, and how it is labelled."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

SHARE, SHORT = "~%", "~s"


@dataclass(frozen=True)
class Family:
    """Metrics that share a chart.

    Attributes:
        title: of the chart.
        section: of the page.
        metrics: their names.
        unit: of the y-axis.
        format: of its numbers, as d3 has it.
        is_from_zero: the axis begins at 0.
        divisor: of the metrics, in one of the unit.
    """

    title: str
    section: str
    metrics: Sequence[str]
    unit: str = ""
    format: str = ""
    is_from_zero: bool = False
    divisor: int = 1


LOSS, VALIDATION, TRAINING, SPEED = "Loss", "Validation", "Training", "Speed"
SECTIONS = (LOSS, VALIDATION, TRAINING, SPEED)
KNOWN = {
    "train/lr": Family("learning rate", TRAINING, (), is_from_zero=True),
    "train/grad_norm": Family("gradient norm", TRAINING, (), is_from_zero=True),
    "train/tokens_per_second": Family(
        "tokens per second", SPEED, (), format=SHORT, is_from_zero=True
    ),
    "train/mfu": Family("share of the peak arithmetic (MFU)", SPEED, (), "", SHARE, True),
    "train/data_share": Family(
        "share of the time spent waiting for data", SPEED, (), "", SHARE, True
    ),
    "train/step_seconds": Family("seconds per step", SPEED, (), is_from_zero=True),
    "train/peak_memory_bytes": Family("peak memory", SPEED, (), "GiB", "", True, divisor=2**30),
}
"""In this order; what is not here follows, under its own name."""
NO_CURVES = ("train/tokens",)
"""The x-axis."""


def group(names: Iterable[str]) -> list[Family]:
    """The charts for these metrics, in the order of the page.

    A name that begins with another one is of its family: `val/f1_pos` of `val/f1`,
    `train/grad_norm/mlp` of `train/grad_norm`.
    """
    names = [name for name in dict.fromkeys(names) if name not in NO_CURVES]
    members: dict[str, list[str]] = {}
    for name in sorted(names, key=len):
        head = next((h for h in members if name.startswith((f"{h}_", f"{h}/"))), name)
        # The speed is no part of another metric that its name happens to begin with.
        members.setdefault(name if name in KNOWN else head, []).append(name)
    losses = [members.pop(name) for name in ("train/loss", "val/loss") if name in members]
    order = [*(name for name in KNOWN if name in members), *names]
    families = [
        _family(name, sorted(members[name])) for name in dict.fromkeys(order) if name in members
    ]
    if losses:
        together = [name for family in losses for name in family]
        families.insert(0, Family("loss", LOSS, together, "nats"))
    return sorted(families, key=lambda family: SECTIONS.index(family.section))


def _family(head: str, metrics: Sequence[str]) -> Family:
    known = KNOWN.get(head)
    if known is None:
        return Family(head, TRAINING if head.startswith("train/") else VALIDATION, metrics)
    return replace(known, metrics=metrics)

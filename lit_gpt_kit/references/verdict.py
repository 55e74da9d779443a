"""Where a run lies beside its reference, in numbers and in plain words."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

from lit_gpt_kit.references.matching import find_reference
from lit_gpt_kit.references.reference import COVERAGE, Reference

METRICS = ("val/loss", "train/loss")
"""What a run is judged by: the first that it has."""
STEP, TOKENS = "step", "train/tokens"
Curve = Sequence[tuple[float, float]]
"""Tokens seen and the value there."""


@dataclass(frozen=True)
class Verdict:
    """Where a curve ended beside a reference's band.

    Attributes:
        reference: its name.
        num_seeds: of the reference.
        metric: what was compared.
        tokens: seen at the curve's last point that can be compared.
        value: there.
        low: of the band, there.
        high: likewise.
        place: of the value; what is no number is above.
        outside_since: tokens at the first of the points that ended outside; None within.
    """

    reference: str
    num_seeds: int
    metric: str
    tokens: float
    value: float
    low: float
    high: float
    place: Literal["within", "above", "below"]
    outside_since: float | None

    def __str__(self) -> str:
        """One sentence for people."""
        band = f"({self.low:.3f} to {self.high:.3f}, from {self.num_seeds} seeds)"
        measured = f"{self.metric} {self.value:.4f} after {self.tokens:,.0f} tokens"
        if self.place == "within":
            return f"{measured}: as expected of {self.reference} {band}"
        assert self.outside_since is not None
        is_new = self.outside_since == self.tokens
        since = "" if is_new else f", outside since {self.outside_since:,.0f} tokens"
        word = "higher" if self.place == "above" else "lower"
        if not math.isfinite(self.value):
            return f"{measured}: {self.reference} has {band[1:-1]}{since}"
        chance = round(1 / (1 - COVERAGE))
        return (
            f"{measured}: {word} than expected of {self.reference} {band}{since}; "
            f"by chance alone one run in {chance} is outside"
        )


def judge(reference: Reference, metric: str, curve: Curve) -> Verdict | None:
    """Where the last point of a curve lies that the reference reaches; None where there is none.

    Args:
        reference: one that fits the run, see `find_reference`.
        metric: the curve's name.
        curve: its points, in any order.
    """
    band = reference.curves.get(metric)
    if band is None:
        return None
    points = [(t, value, at) for t, value in sorted(curve) if (at := band.at(t)) is not None]
    if not points:
        return None
    outside_since = None
    for tokens, value, (low, _, high) in reversed(points):
        if low <= value <= high:
            break
        outside_since = tokens
    tokens, value, (low, _, high) = points[-1]
    is_within = outside_since is None
    place: Any = "within" if is_within else "below" if value < low else "above"
    return Verdict(
        reference.name, reference.num_seeds, metric, tokens, value, low, high, place, outside_since
    )


def judge_run(
    config: Mapping[str, Any], data_fingerprint: str | None, rows: Iterable[Mapping[str, Any]]
) -> Verdict | None:
    """Where a run lies; None where it has no reference, or nothing to compare.

    Args:
        config: of the run, resolved: its config.yaml.
        data_fingerprint: see `find_reference`.
        rows: of its metrics.csv.
    """
    rows = list(rows)
    reference = find_reference(config, data_fingerprint, tokens_per_step(rows))
    if reference is None:
        return None
    verdicts = (judge(reference, metric, read_curve(rows, metric)) for metric in METRICS)
    return next((verdict for verdict in verdicts if verdict is not None), None)


def tokens_per_step(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """How many tokens a step of a run has, on average; None where its rows do not tell."""
    known = [(s, t) for row in rows if (s := _number(row, STEP)) and (t := _number(row, TOKENS))]
    if not known:
        return None
    step, tokens = max(known)
    return tokens / step


def read_curve(rows: Iterable[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """The points of a metric: tokens seen and value.

    A row without tokens, as of a validation between two steps that are logged, has as many as lie
    in a line between its neighbours'.

    Args:
        rows: of a metrics.csv, in the order of their steps; empty cells are "" or None.
        metric: a column.
    """
    rows = list(rows)
    known = [(0.0, 0.0)]
    for row in rows:
        step, tokens = _number(row, STEP), _number(row, TOKENS)
        if step is not None and tokens is not None and step > known[-1][0]:
            known.append((step, tokens))
    points = []
    for row in rows:
        step, value = _number(row, STEP), _number(row, metric)
        if step is not None and value is not None and len(known) > 1:
            points.append((tokens_at(step, known), value))
    return points


def tokens_at(step: float, known: Sequence[tuple[float, float]]) -> float:
    """Tokens seen after a step: in a line between the steps at which they were logged.

    Behind the last of these they go on as they did before it.

    Args:
        step: the number of finished steps.
        known: step and tokens, at least two of them, in order.
    """
    after = min(max(bisect_left(known, step, key=itemgetter(0)), 1), len(known) - 1)
    (step_a, tokens_a), (step_b, tokens_b) = known[after - 1], known[after]
    return tokens_a + (tokens_b - tokens_a) * (step - step_a) / (step_b - step_a)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    """A cell's number; a value that is no number is NaN, and still one."""
    cell = row.get(name)
    return None if cell in (None, "") else float(cell)

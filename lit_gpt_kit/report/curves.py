"""Curves made fit to be looked at: smoothed, and thinned without hiding what stands out."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from lit_gpt_kit.report.run import Point

MOST_POINTS = 600
"""Of a curve on the page; more than a screen has columns for would only make it heavy."""
FEWEST_TO_SMOOTH = 40
WINDOW_SHARE = 0.02
"""How much of a run the smoothed curve averages over."""


def smooth(points: Sequence[Point]) -> list[Point]:
    """Each value's mean with its neighbours, a fiftieth of the curve in all, so that none lags.

    The first values, where a curve falls steeply, have as many neighbours before as behind them;
    the last ones, where it is flat, have those before them. Empty where the points are too few to
    need it.
    """
    if len(points) < FEWEST_TO_SMOOTH:
        return []
    sums = [0.0, *accumulate(point.value for point in points)]
    half = max(1, round(WINDOW_SHARE * len(points) / 2))
    means = []
    for index, point in enumerate(points):
        first = index - min(half, index)
        last = min(index + min(half, index), len(points) - 1)
        means.append(replace(point, value=(sums[last + 1] - sums[first]) / (last + 1 - first)))
    return means


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many of the points: of each stretch the lowest and the highest, and both ends.

    A single step that stands out so remains to be seen, however long the run is.
    """
    if len(points) <= most:
        return list(points)
    num_stretches = (most - 2) // 2
    inner = range(1, len(points) - 1)
    kept = {0, len(points) - 1}
    for stretch in range(num_stretches):
        first = stretch * len(inner) // num_stretches
        last = (stretch + 1) * len(inner) // num_stretches
        by_value = sorted(inner[first:last], key=lambda index: points[index].value)
        kept |= {by_value[0], by_value[-1]}
    return [points[index] for index in sorted(kept)]

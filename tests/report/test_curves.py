"""Curves, smoothed and thinned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_gpt_kit.report.curves import FEWEST_TO_SMOOTH, smooth, thin
from lit_gpt_kit.report.run import Point


def curve(values: list[float]) -> list[Point]:
    return [Point(step, 10.0 * step, value) for step, value in enumerate(values, start=1)]


def test_smoothing_leaves_a_line_and_its_places_as_they_are() -> None:
    points = curve([2.0 - 0.01 * n for n in range(100)])
    smoothed = smooth(points)
    assert [(p.step, p.tokens) for p in smoothed] == [(p.step, p.tokens) for p in points]
    expected = [point.value for point in points]
    expected[-1] = np.mean(expected[-2:])  # the last has those before it alone
    assert [point.value for point in smoothed] == pytest.approx(expected)


def test_smoothing_is_the_mean_of_the_neighbours() -> None:
    values = np.random.default_rng(0).normal(size=300)
    smoothed = np.array([point.value for point in smooth(curve(values.tolist()))])
    window = np.ones(7) / 7  # three on each side: a fiftieth of 300
    np.testing.assert_allclose(smoothed[3:-3], np.convolve(values, window, "valid"), atol=1e-12)


def test_few_points_are_not_smoothed() -> None:
    assert smooth(curve([1.0] * (FEWEST_TO_SMOOTH - 1))) == []


def test_a_short_curve_is_whole() -> None:
    points = curve([3.0, 1.0, 2.0])
    assert thin(points, most=3) == points


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400),
    most=st.integers(10, 60),
)
def test_a_thinned_curve_keeps_its_ends_and_extremes(values: list[float], most: int) -> None:
    points = curve(values)
    thinned = thin(points, most)
    assert len(thinned) <= max(most, 10)
    assert thinned == sorted(thinned, key=lambda point: point.step)
    assert set(thinned) <= set(points)
    assert {thinned[0], thinned[-1]} == {points[0], points[-1]}
    ours = [point.value for point in thinned]
    assert (min(ours), max(ours)) == (min(values), max(values))


def test_every_stretch_of_a_long_curve_keeps_what_stands_out() -> None:
    values = [1.0] * 100_000
    spikes = [12_345, 50_000, 99_000]
    for spike in spikes:
        values[spike - 1] = 9.0
    thinned = thin(curve(values))
    assert [point.step for point in thinned if point.value == 9.0] == spikes
    assert len(thinned) <= 600
    steps = [point.step for point in thinned]
    assert max(np.diff(steps)) <= 3 * 100_000 / len(steps) * 2

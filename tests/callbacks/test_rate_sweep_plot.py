"""The picture of a sweep."""

import pytest

from lit_gpt_kit.callbacks.rate_sweep import SweptPoint, smooth
from lit_gpt_kit.callbacks.rate_sweep_plot import draw_sweep


def test_shows_losses_and_the_suggestion() -> None:
    points = [SweptPoint(10.0**n, 5.0 - n) for n in range(-3, 3)]
    (axes,) = draw_sweep(points, (0.1, 1.0), "a sweep").axes
    steps, smoothed, steepest, lowest = axes.lines
    assert list(steps.get_xdata()) == [point.factor for point in points]
    assert list(steps.get_ydata()) == [point.loss for point in points]
    assert list(smoothed.get_ydata()) == pytest.approx(
        list(smooth([point.loss for point in points]))
    )
    assert list(steepest.get_xdata()) == [0.1, 0.1]
    assert list(lowest.get_xdata()) == [1.0, 1.0]
    assert axes.get_xscale() == "log"
    assert len(draw_sweep(points, None, "a sweep").axes[0].lines) == 2

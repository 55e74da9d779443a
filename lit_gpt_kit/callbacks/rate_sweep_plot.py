"""The picture of a sweep of learning rates; made without pyplot, which would open windows."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lit_gpt_kit.callbacks.classification_plots import BLUE, LIGHT_GRAY
from lit_gpt_kit.callbacks.rate_sweep import SweptPoint, smooth


def draw_sweep(points: Sequence[SweptPoint], suggestion: float | None, title: str) -> Figure:
    """Loss by the factor of the rates, with the factor that is suggested.

    Args:
        points: of the sweep.
        suggestion: a factor; None where there is none.
        title: what the picture is of.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    factors = [point.factor for point in points]
    losses = [point.loss for point in points]
    axes.plot(factors, losses, ".", color=BLUE, alpha=0.4, label="step")
    axes.plot(factors, smooth(losses), color=BLUE, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color="0.45", linestyle=":", label=f"steepest: x {suggestion:.3g}")
    axes.set(xscale="log", xlabel="times the configured learning rates", ylabel="loss of the step")
    axes.grid(color=LIGHT_GRAY)
    axes.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure

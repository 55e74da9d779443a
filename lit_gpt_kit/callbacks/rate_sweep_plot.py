"""The picture of a sweep of learning rates; made without pyplot, which would open windows."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lit_gpt_kit.callbacks.classification_plots import BLUE, GRAY, LIGHT_GRAY
from lit_gpt_kit.callbacks.rate_sweep import SweptPoint, smooth


def draw_sweep(
    points: Sequence[SweptPoint], suggestions: tuple[float, float] | None, title: str
) -> Figure:
    """Loss by the factor of the rates, with the factors that are suggested.

    Args:
        points: of the sweep.
        suggestions: where the loss falls fastest, and where it is lowest; None where nowhere.
        title: what the picture is of.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    factors = [point.factor for point in points]
    losses = [point.loss for point in points]
    axes.plot(factors, losses, ".", color=BLUE, alpha=0.4, label="step")
    axes.plot(factors, smooth(losses), color=BLUE, label="smoothed")
    if suggestions is not None:
        for name, style, factor in zip(("steepest", "lowest"), ":-", suggestions, strict=True):
            axes.axvline(factor, color=GRAY, linestyle=style, label=f"{name}: x {factor:.2g}")
    axes.set(xscale="log", xlabel="times the configured learning rates", ylabel="loss of the step")
    axes.grid(color=LIGHT_GRAY)
    axes.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure

"""Pictures of how well a classifier does: pure functions from arrays to a figure.

Figures are made without pyplot, which would open windows and keep every figure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

Array = NDArray[Any]

LONGEST_NAME = 24
MOST_NAMED_CURVES = 10
NUM_WORST = 5
MOST_CURVES = 50
MOST_ANNOTATED = 20
MOST_NAMED_CLASSES = 60
CHARACTERS_PER_INCH = 9
LABEL_COLUMNS = ("found", "missed", "false alarm", "rightly not")
GRAY, LIGHT_GRAY, BLUE = "0.45", "0.85", "#2a6fbb"


def draw_all(results: Mapping[str, Array], names: Sequence[str], title: str) -> dict[str, Figure]:
    """All pictures that the scores of `classification_scores` allow, by name.

    Args:
        results: the scores.
        names: of the classes.
        title: what the scores are of.
    """
    figures = {}
    false_positive_rate, recall = results["false_positive_rate"], results["recall"]
    auroc, average_precision = results["auroc"], results["average_precision"]
    curve_names = names[-len(auroc) :]  # of two exclusive classes, the second has the curve
    if not np.isnan(auroc).all():
        of_class = f" of {_short(curve_names[0])}" if len(auroc) == 1 else ""
        figures["roc"] = draw_roc(
            false_positive_rate, recall, auroc, curve_names, f"ROC{of_class}: {title}"
        )
        figures["precision_recall"] = draw_precision_recall(
            recall,
            results["precision"],
            average_precision,
            curve_names,
            f"precision and recall{of_class}: {title}",
        )
    confusion, columns, axis_names = results["confusion"], names, ("true", "decided")
    if confusion.ndim > 2:
        confusion = confusion[:, [1, 1, 0, 0], [1, 0, 1, 0]]  # (true, decided) of the columns
        columns, axis_names = LABEL_COLUMNS, ("label", "rows")
    figures["confusion"] = draw_confusion(
        confusion, names, columns, f"confusion: {title}", axis_names
    )
    bins = results["bin_count"], results["bin_confidence"], results["bin_accuracy"]
    error = float(results["calibration_error"])
    figures["calibration"] = draw_calibration(*bins, error, f"calibration: {title}")
    return figures


def draw_roc(
    false_positive_rate: Array, recall: Array, areas: Array, names: Sequence[str], title: str
) -> Figure:
    """True against false positive rate, a curve a class.

    Args:
        false_positive_rate: (curves, points), rising.
        recall: (curves, points), the true positive rate.
        areas: (curves), NaN where a class has no curve.
        names: of the classes.
        title: what the picture is of.
    """
    figure, axes = _square(title, "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle=":", label="chance (0.500)")
    _draw_curves(axes, false_positive_rate, recall, areas, names, "AUROC")
    return figure


def draw_precision_recall(
    recall: Array, precision: Array, areas: Array, names: Sequence[str], title: str
) -> Figure:
    """Precision against recall, a curve a class.

    Args:
        recall: (curves, points), rising.
        precision: (curves, points).
        areas: (curves), the average precision, NaN where a class has no curve.
        names: of the classes.
        title: what the picture is of.
    """
    figure, axes = _square(title, "recall", "precision")
    _draw_curves(axes, recall, precision, areas, names, "AP")
    return figure


def draw_confusion(
    counts: Array,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    axis_names: tuple[str, str] = ("true", "decided"),
) -> Figure:
    """A table of counts; the colour is the share of the row.

    Args:
        counts: (rows, columns) of rows by true class and by what the model decided.
        row_names: of the true classes.
        column_names: of the decisions.
        title: what the picture is of.
        axis_names: what the rows are, and the columns.
    """
    num_rows, num_columns = counts.shape
    size = min(4 + 0.45 * max(num_rows, num_columns), 16)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="share of the row", format=PercentFormatter(1, 0))
    if max(num_rows, num_columns) <= MOST_NAMED_CLASSES:
        columns = [_short(name) for name in column_names]
        is_crowded = max(map(len, columns)) * num_columns > CHARACTERS_PER_INCH * size
        axes.set_xticks(range(num_columns), columns, rotation=90 if is_crowded else 0)
        axes.set_yticks(range(num_rows), [_short(name) for name in row_names])
    if max(num_rows, num_columns) <= MOST_ANNOTATED:
        _annotate(axes, counts, shares)
    axes.set(ylabel=axis_names[0], xlabel=axis_names[1])
    figure.suptitle(title, fontsize="medium")
    return figure


def draw_calibration(
    bin_count: Array, bin_confidence: Array, bin_accuracy: Array, error: float, title: str
) -> Figure:
    """Accuracy by confidence, above how many decisions have it.

    Args:
        bin_count: (bins) decisions in equal bins of confidence.
        bin_confidence: (bins) their mean confidence, NaN where there are none.
        bin_accuracy: (bins) the share of them that is right.
        error: the expected calibration error.
        title: what the picture is of.
    """
    figure = Figure(figsize=(6, 6.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    is_filled = bin_count > 0
    width = 1 / len(bin_count)
    left = np.arange(len(bin_count)) * width
    upper.bar(left[is_filled], bin_accuracy[is_filled], width, align="edge", color=BLUE, alpha=0.3)
    points = bin_confidence[is_filled], bin_accuracy[is_filled]
    upper.plot(*points, "o-", color=BLUE, label=f"model (calibration error {error:.3f})")
    upper.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle=":", label="calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="upper left", fontsize="small")
    lower.bar(left, bin_count / bin_count.sum(), width, align="edge", color=BLUE, edgecolor="white")
    lower.yaxis.set_major_formatter(PercentFormatter(1, 0))
    lower.set(xlabel="confidence", ylabel="decisions")
    for axes in (upper, lower):
        axes.grid(color=LIGHT_GRAY)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize="medium")
    return figure


def _square(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 7.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axes.set_aspect("equal")
    axes.grid(color=LIGHT_GRAY)
    figure.suptitle(title, fontsize="medium")
    return figure, axes


def _draw_curves(
    axes: Axes, x: Array, y: Array, areas: Array, names: Sequence[str], measure: str
) -> None:
    """Few curves in colours with a legend; of many, the worst, and the rest in gray behind them."""
    worst_first = [i for i in np.argsort(areas) if not math.isnan(areas[i])]
    is_many = len(worst_first) > MOST_NAMED_CURVES
    named = worst_first[:NUM_WORST] if is_many else sorted(worst_first)
    for i in worst_first[:MOST_CURVES] if is_many else ():
        axes.plot(*_corners(x[i], y[i]), color="0.75", linewidth=0.8)
    colors = [BLUE] if len(named) == 1 else matplotlib.color_sequences["tab10"]
    for color, i in zip(colors, named, strict=False):
        label = f"{_short(names[i])} ({areas[i]:.3f})"
        axes.plot(*_corners(x[i], y[i]), color=color, linewidth=1.6, label=label)
    heading = f"{measure}, mean {np.nanmean(areas):.3f}" if len(worst_first) > 1 else measure
    if is_many:
        heading += f"\n{NUM_WORST} worst of {len(worst_first)}"
    # Below, where no curve can run behind it.
    style: dict[str, Any] = {"fontsize": "small", "frameon": False, "ncols": 2}
    axes.figure.legend(loc="outside lower center", title=heading, **style)


def _corners(x: Array, y: Array) -> tuple[Array, Array]:
    """The points of a curve less those that repeat the one before."""
    is_new = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
    return x[is_new], y[is_new]


def _annotate(axes: Axes, counts: Array, shares: Array) -> None:
    size = "medium" if len(counts) <= MOST_ANNOTATED // 2 else "x-small"
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.6 else "black"
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size}
        axes.text(column, row, f"{count:,}" if count else "·", color=color, **style)


def _short(name: str) -> str:
    # "$" would begin a formula.
    if len(name) > LONGEST_NAME:
        half = LONGEST_NAME // 2
        name = f"{name[: half - 1]}…{name[-half:]}"  # names often differ at the end alone
    return name.replace("$", r"\$")

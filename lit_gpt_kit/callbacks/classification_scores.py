"""All scores of a classifier, added up over batches and ranks."""

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelConfusionMatrix,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from lit_gpt_kit.callbacks.binned_scores import BinnedCalibration, BinnedCurves
from lit_gpt_kit.callbacks.classification_outputs import ScoredRows

MOST_F1_BY_CLASS = 50


def build_scores(num_classes: int, is_multilabel: bool) -> MetricCollection:
    """The scores, empty.

    They compute `accuracy`, `f1`, `f1_by_class`, `confusion`, and what BinnedCurves and
    BinnedCalibration do. `confusion` is (true, decided), and where a row may have several labels
    (classes, true, decided).
    """
    # Values are checked already, where a message can name the step that returned them.
    options: dict[str, Any] = {"validate_args": False}
    scores: dict[str, Metric | MetricCollection]
    if is_multilabel:
        scores = {
            "accuracy": MultilabelExactMatch(num_classes, **options),
            "f1": MultilabelF1Score(num_classes, average="macro", **options),
            "f1_by_class": MultilabelF1Score(num_classes, average="none", **options),
            "confusion": MultilabelConfusionMatrix(num_classes, **options),
        }
    else:
        scores = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro", **options),
            "f1": MulticlassF1Score(num_classes, average="macro", **options),
            "f1_by_class": MulticlassF1Score(num_classes, average="none", **options),
            "confusion": MulticlassConfusionMatrix(num_classes, **options),
        }
    scores["curves"] = BinnedCurves(num_classes, is_multilabel)
    scores["calibration"] = BinnedCalibration(is_multilabel)
    return MetricCollection(scores, compute_groups=False)


def update_scores(scores: MetricCollection, rows: ScoredRows) -> None:
    """Add rows."""
    if len(rows.labels):  # torchmetrics cannot do with none
        scores.update(preds=rows.decisions, target=rows.labels, log_odds=rows.log_odds)


def compute_scores(scores: MetricCollection) -> dict[str, Tensor]:
    """The scores over all ranks, on the CPU."""
    with warnings.catch_warnings():
        # A rank that had no rows takes part all the same.
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        results = {name: value.cpu() for name, value in scores.compute().items()}
    # torchmetrics takes the only curve of two classes for a scalar.
    for name in ("auroc", "average_precision"):
        results[name] = results[name].view(-1)
    return results


def count_rows(results: dict[str, Tensor]) -> int:
    """How many rows the scores are of."""
    confusion = results["confusion"]
    return int((confusion if confusion.ndim == 2 else confusion[0]).sum())


def named_numbers(results: dict[str, Tensor], names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """What is logged of the scores, by metric name; what has no meaning has no number.

    Where logits were NaN every number is NaN, by which Lightning's EarlyStopping knows that a run
    has diverged.
    """
    is_undefined = bool(results["num_undefined"] > 0)
    for name in ("accuracy", "f1", "calibration_error", "auroc", "average_precision"):
        value = results[name].double()
        if is_undefined:
            yield name, float("nan")
        elif not value.isnan().all():
            yield name, float(value.nanmean())
    if is_undefined or len(names) > MOST_F1_BY_CLASS:
        return
    is_seen = seen_classes(results)
    for slug, f1, seen in zip(slugs(names), results["f1_by_class"], is_seen, strict=True):
        if seen:
            yield f"f1_{slug}", float(f1)


def seen_classes(results: dict[str, Tensor]) -> list[bool]:
    """Of each class, whether a row has it or is thought to have it."""
    confusion = results["confusion"]
    if confusion.ndim == 2:
        counts = confusion.sum(dim=0) + confusion.sum(dim=1)
    else:
        counts = confusion.sum(dim=(1, 2)) - confusion[:, 0, 0]
    return [bool(count > 0) for count in counts]


def slugs(names: Sequence[str]) -> list[str]:
    """The names as parts of metric names, all different."""
    made: list[str] = []
    for number, name in enumerate(names):
        slug = re.sub(r"[^\w.-]+", "_", name).strip("_") or str(number)
        made.append(slug if slug not in made else f"{slug}_{number}")
    return made

"""The scores, held against sklearn's on all rows at once."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from lit_gpt_kit.callbacks.binned_scores import BinnedCurves
from lit_gpt_kit.callbacks.classification_outputs import log_odds, read_outputs
from lit_gpt_kit.callbacks.classification_scores import (
    build_scores,
    compute_scores,
    count_rows,
    named_numbers,
    slugs,
    update_scores,
)
from tests.callbacks.classifier import Rows, imbalanced, one_of, several_of

ONE_LABEL = {
    "two": one_of(2),
    "confident": one_of(2, num_rows=3000, sharpness=12.0),
    "barely different": one_of(2, num_rows=3000, sharpness=0.02),
    "seven": one_of(7),
    "imbalanced": imbalanced(),
}


def score(rows: Rows, batch_size: int = 64) -> dict[str, Tensor]:
    scores = None
    for logits, labels in zip(rows[0].split(batch_size), rows[1].split(batch_size), strict=True):
        read = read_outputs({"logits": logits, "labels": labels}, "validation_step")
        scores = scores or build_scores(read.num_classes, read.is_multilabel)
        update_scores(scores, read)
    assert scores is not None
    return compute_scores(scores)


def numbers(rows: Rows, batch_size: int = 64) -> dict[str, float]:
    num_classes = max(2, rows[0].shape[-1]) if rows[0].ndim > 1 else 2
    names = [str(number) for number in range(num_classes)]
    return dict(named_numbers(score(rows, batch_size), names))


def log_odds_in_float64(logits: Tensor) -> NDArray[Any]:
    others = [
        torch.cat([logits[:, :i], logits[:, i + 1 :]], dim=1).double().logsumexp(dim=1)
        for i in range(logits.shape[1])
    ]
    odds: NDArray[Any] = (logits.double() - torch.stack(others, dim=1)).numpy()
    return odds


def closed_form_calibration(confidence: NDArray[Any], is_right: NDArray[Any]) -> float:
    edges = np.linspace(0, 1, 16)
    total = 0.0
    for i in range(15):
        top = confidence <= edges[i + 1] if i == 14 else confidence < edges[i + 1]
        inside = (confidence >= edges[i]) & top
        if inside.any():
            gap = abs(is_right[inside].mean() - confidence[inside].mean())
            total += gap * inside.sum() / len(confidence)
    return total


@pytest.mark.parametrize("name", ONE_LABEL)
def test_one_label_a_row(name: str) -> None:
    logits, labels = ONE_LABEL[name]
    truth, decided = labels.numpy(), logits.argmax(dim=1).numpy()
    odds = log_odds_in_float64(logits)
    actual = numbers((logits, labels))
    assert actual["accuracy"] == pytest.approx(metrics.accuracy_score(truth, decided), abs=1e-6)
    macro = metrics.f1_score(truth, decided, average="macro")
    assert actual["f1"] == pytest.approx(macro, abs=1e-6)
    each = metrics.f1_score(truth, decided, average=None)
    assert [actual[f"f1_{i}"] for i in range(len(each))] == pytest.approx(each, abs=1e-6)
    is_class = truth[:, None] == np.arange(logits.shape[1])
    if logits.shape[1] == 2:
        is_class, odds = is_class[:, 1], odds[:, 1]
    area = metrics.roc_auc_score(is_class, odds)
    assert actual["auroc"] == pytest.approx(area, abs=1e-4)
    average_precision = metrics.average_precision_score(is_class, odds)
    assert actual["average_precision"] == pytest.approx(average_precision, abs=3e-4)
    confusion = metrics.confusion_matrix(truth, decided)
    assert score((logits, labels))["confusion"].tolist() == confusion.tolist()


@pytest.mark.parametrize("name", ONE_LABEL)
def test_calibration_of_one_label_a_row(name: str) -> None:
    logits, labels = ONE_LABEL[name]
    confidence, decided = logits.double().softmax(dim=1).max(dim=1)
    is_right = (decided == labels).double().numpy()
    expected = closed_form_calibration(confidence.numpy(), is_right)
    actual = numbers((logits, labels))["calibration_error"]
    assert actual == pytest.approx(expected, abs=1e-6)
    theirs = MulticlassCalibrationError(logits.shape[1], n_bins=15, norm="l1")
    # torchmetrics gives a confidence of exactly 1 a bin of its own.
    below_one = logits.double().softmax(dim=1).clamp(max=1 - 1e-12)
    assert actual == pytest.approx(float(theirs(below_one, labels)), abs=1e-6)


def test_several_labels_a_row() -> None:
    logits, labels = several_of()
    truth, decided = labels.numpy(), (logits > 0).long().numpy()
    actual = numbers((logits, labels))
    assert actual["accuracy"] == pytest.approx(metrics.accuracy_score(truth, decided), abs=1e-6)
    macro = metrics.f1_score(truth, decided, average="macro")
    assert actual["f1"] == pytest.approx(macro, abs=1e-6)
    each = metrics.f1_score(truth, decided, average=None)
    assert [actual[f"f1_{i}"] for i in range(4)] == pytest.approx(each, abs=1e-6)
    assert actual["auroc"] == pytest.approx(metrics.roc_auc_score(truth, logits), abs=1e-5)
    average_precision = metrics.average_precision_score(truth, logits)
    assert actual["average_precision"] == pytest.approx(average_precision, abs=3e-4)
    p = logits.double().sigmoid().numpy().ravel()
    expected = closed_form_calibration(p, truth.ravel().astype(float))
    assert actual["calibration_error"] == pytest.approx(expected, abs=1e-6)
    confusion = metrics.multilabel_confusion_matrix(truth, decided)
    assert score((logits, labels))["confusion"].tolist() == confusion.tolist()


def test_logits_between_0_and_1_are_logits() -> None:
    logits, labels = several_of()
    logits = logits.sigmoid()  # all above zero: every label is decided for
    decided = np.ones_like(labels.numpy())
    expected = metrics.f1_score(labels.numpy(), decided, average="macro")
    assert numbers((logits, labels))["f1"] == pytest.approx(expected, abs=1e-6)


def test_yes_or_no_is_one_of_two() -> None:
    logits, labels = one_of(2)
    margin = logits[:, 1] - logits[:, 0]
    assert numbers((margin, labels)) == pytest.approx(numbers((logits, labels)), abs=1e-6)
    column = (margin.unsqueeze(1), labels)
    assert numbers(column) == pytest.approx(numbers((logits, labels)), abs=1e-6)


@pytest.mark.parametrize(
    "rows", [one_of(2), one_of(7), imbalanced(), several_of()], ids=["two", "7", "rare", "multi"]
)
def test_how_rows_are_split_into_batches_is_the_same(rows: Rows) -> None:
    expected = numbers(rows, batch_size=len(rows[0]))
    order = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(0))
    filler = torch.full_like(rows[1][:3], -100)
    longer = (torch.cat([rows[0][order], rows[0][:3]]), torch.cat([rows[1][order], filler]))
    for batch_size in (1, 7, 64):
        assert numbers(longer, batch_size) == pytest.approx(expected, abs=1e-6)
        assert count_rows(score(longer, batch_size)) == len(rows[0])


def test_curves_are_sklearns() -> None:
    logits, labels = one_of(2, num_rows=200)
    results = score((logits, labels))
    odds = log_odds_in_float64(logits)[:, 1]
    x, y, _ = metrics.roc_curve(labels, odds, drop_intermediate=False)
    points = set(zip(x.round(9).tolist(), y.round(9).tolist(), strict=True))
    ours = torch.stack([results["false_positive_rate"][0], results["recall"][0]], dim=1)
    found = {tuple(point) for point in ours.numpy().round(9).tolist()}
    assert found <= points  # less those between two rows of one bin
    assert len(found) > 0.97 * len(points)
    precision, recall, _ = metrics.precision_recall_curve(labels, odds)
    points = set(zip(recall.round(9).tolist(), precision.round(9).tolist(), strict=True))
    ours = torch.stack([results["recall"][0], results["precision"][0]], dim=1)
    found = {tuple(point) for point in ours.numpy().round(9).tolist()}
    assert found <= points
    assert len(found) > 0.97 * len(points)


def test_memory_is_flat_and_small() -> None:
    for num_classes, is_multilabel in ((2, False), (2, True), (4, False), (50, False)):
        curves = BinnedCurves(num_classes, is_multilabel)
        before = curves.histogram.shape
        odds = torch.randn(10, num_classes)
        labels = torch.ones(10, num_classes).long() if is_multilabel else torch.ones(10).long()
        curves.update(odds, labels)
        assert curves.histogram.shape == before
        assert curves.histogram.nbytes <= 4 * 2**20
    assert BinnedCurves(1000, False).histogram.nbytes <= 16 * 2**20


@pytest.mark.parametrize("sharpness", [0.02, 1.0, 4.0, 300.0])
@pytest.mark.parametrize("num_classes", [2, 4, 50, 200])
def test_the_error_of_the_bins(num_classes: int, sharpness: float) -> None:
    logits, labels = one_of(num_classes, num_rows=5000, sharpness=sharpness)
    is_class, odds = labels.numpy()[:, None] == np.arange(num_classes), log_odds(logits.double())
    if num_classes == 2:
        is_class, odds = is_class[:, 1], odds[:, 1]
    actual = numbers((logits, labels))
    area = metrics.roc_auc_score(is_class, odds)
    assert actual["auroc"] == pytest.approx(area, abs={200: 2e-4}.get(num_classes, 1e-4))
    average_precision = metrics.average_precision_score(is_class, odds)
    tolerance = {50: 1e-3, 200: 3e-3}.get(num_classes, 3e-4)
    assert actual["average_precision"] == pytest.approx(average_precision, abs=tolerance)


def test_the_error_of_the_bins_away_from_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (20000,), generator=generator)
    margin = 3 + 0.01 * labels + 0.02 * torch.randn(20000, generator=generator)
    actual = numbers((margin, labels))
    area, precision = metrics.roc_auc_score, metrics.average_precision_score
    assert actual["auroc"] == pytest.approx(area(labels, margin), abs=1e-4)
    assert actual["average_precision"] == pytest.approx(precision(labels, margin), abs=3e-3)


def test_classes_without_rows_are_left_out() -> None:
    logits, labels = one_of(4)
    kept = labels != 3
    logits, labels = logits[kept], labels[kept]
    logits[:, 3] -= 100.0  # nor does anything take a row for one
    actual = numbers((logits, labels))
    odds = log_odds_in_float64(logits)[:, :3]
    is_class = labels[:, None].numpy() == np.arange(3)
    assert actual["auroc"] == pytest.approx(metrics.roc_auc_score(is_class, odds), abs=1e-5)
    expected = metrics.average_precision_score(is_class, odds)
    assert actual["average_precision"] == pytest.approx(expected, abs=1e-3)
    expected = metrics.f1_score(labels, logits.argmax(dim=1), average="macro")
    assert actual["f1"] == pytest.approx(expected, abs=1e-6)
    assert "f1_2" in actual
    assert "f1_3" not in actual


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_one_class_alone_has_no_curve(label: int, num_classes: int) -> None:
    logits, _ = one_of(num_classes, num_rows=50)
    actual = numbers((logits, torch.full((50,), label)))
    assert {"accuracy", "f1", "calibration_error"} <= set(actual)
    assert not {"auroc", "average_precision"} & set(actual)
    assert not any(np.isnan(value) for value in actual.values())


def test_a_nan_anywhere_is_a_nan_everywhere() -> None:
    logits, labels = one_of(3)
    logits[5, 1] = float("nan")
    actual = numbers((logits, labels))
    assert set(actual) == {"accuracy", "f1", "calibration_error", "auroc", "average_precision"}
    assert all(np.isnan(value) for value in actual.values())


def test_many_classes_have_no_number_each() -> None:
    rows = one_of(51)
    assert not [name for name in numbers(rows) if name.startswith("f1_")]
    assert [name for name in numbers(one_of(50)) if name.startswith("f1_")]


def test_names_become_parts_of_metric_names() -> None:
    names = ["World", "Sci/Tech & more", "été", "$", "a b", "a-b", "a/b", "1.5"]
    made = slugs(names)
    assert made == ["World", "Sci_Tech_more", "été", "3", "a_b", "a-b", "a_b_6", "1.5"]


def test_names_that_look_alike_stay_apart() -> None:
    assert len(set(slugs(["a", "a", "a_2", "a 2", "a"]))) == 5

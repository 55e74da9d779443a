"""Pictures: what stands in them, and that they are drawn for any number of classes."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lit_gpt_kit.callbacks.classification_outputs import read_outputs
from lit_gpt_kit.callbacks.classification_plots import (
    draw_all,
    draw_calibration,
    draw_confusion,
    draw_roc,
)
from lit_gpt_kit.callbacks.classification_scores import (
    build_scores,
    compute_scores,
    update_scores,
)
from tests.callbacks.classifier import one_of, several_of

NAMES = ("roc", "precision_recall", "confusion", "calibration")


def draw(logits: Tensor, labels: Tensor, prefix: str = "class ") -> dict[str, Figure]:
    rows = read_outputs({"logits": logits, "labels": labels}, "validation_step")
    scores = build_scores(rows.num_classes, rows.is_multilabel)
    update_scores(scores, rows)
    results = {name: value.numpy() for name, value in compute_scores(scores).items()}
    return draw_all(results, [f"{prefix}{i}" for i in range(rows.num_classes)], "val, 600 rows")


def png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=40)
    return image.getvalue()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("num_classes", [2, 6, 50, 70])
def test_any_number_of_classes_is_drawn(num_classes: int) -> None:
    figures = draw(*one_of(num_classes), prefix="a long name of $ and so on and so forth ")
    assert tuple(figures) == NAMES
    for figure in figures.values():
        assert png(figure).startswith(b"\x89PNG")
        assert "val, 600 rows" in str(figure.get_suptitle())


def test_two_classes_have_one_curve() -> None:
    figures = draw(*one_of(2))
    assert figures["roc"].get_suptitle() == "ROC of class 1: val, 600 rows"
    assert [line.rsplit(" ", 1)[0] for line in legend(figures["roc"])] == ["chance", "class 1"]
    assert len(legend(figures["precision_recall"])) == 1


def test_of_many_classes_the_worst_are_named() -> None:
    logits, labels = one_of(20)
    logits[:, 7] = 0.0  # knows nothing of this one
    figures = draw(logits, labels)
    chance, *named = legend(figures["roc"])
    assert chance.startswith("chance")
    assert len(named) == 5
    assert named[0].startswith("class 7 (0.")
    assert "5 worst of 20" in figures["roc"].legends[0].get_title().get_text()
    (axes,) = figures["roc"].axes
    assert len(axes.lines) == 1 + 20 + 5


def test_a_curve_is_drawn_through_its_points() -> None:
    x, y = np.array([[0.0, 0.0, 0.5, 0.5, 1.0]]), np.array([[0.0, 0.5, 0.5, 0.5, 1.0]])
    figure = draw_roc(x, y, np.array([0.625]), ["a"], "title")
    curve = figure.axes[0].lines[1].get_xydata()
    assert np.asarray(curve).tolist() == [[0, 0], [0, 0.5], [0.5, 0.5], [1, 1]]
    assert legend(figure) == ["chance (0.500)", "a (0.625)"]


def test_a_class_without_rows_has_no_curve() -> None:
    curve = np.array([[0.0, 1.0]] * 3)
    figure = draw_roc(curve, curve, np.array([0.5, math.nan, 0.7]), ["a", "b", "c"], "title")
    assert legend(figure)[1:] == ["a (0.500)", "c (0.700)"]
    assert figure.legends[0].get_title().get_text() == "AUROC, mean 0.600"


def test_one_class_alone_has_no_curves() -> None:
    logits, labels = one_of(2)
    assert tuple(draw(logits, torch.ones_like(labels))) == ("confusion", "calibration")


def test_a_small_confusion_shows_its_counts() -> None:
    figure = draw_confusion(np.array([[1200, 0], [3, 4]]), ["no", "yes"], ["no", "yes"], "title")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["1,200", "·", "3", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no", "yes"]
    shares = np.asarray(axes.images[0].get_array())
    assert shares[1].tolist() == pytest.approx([3 / 7, 4 / 7])


def test_a_large_confusion_has_names_alone() -> None:
    names = [f"{i:02} {'x' * 40} {i:02}" for i in range(50)]
    axes = draw_confusion(np.eye(50), names, names, "title").axes[0]
    assert not axes.texts
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(shown)) == 50
    assert max(map(len, shown)) <= 24


def test_several_labels_have_a_row_of_counts_each() -> None:
    logits, labels = several_of(3)
    figure = draw(logits, labels)["confusion"]
    decided = logits > 0
    expected = []
    for i in range(3):
        true, found = labels[:, i].bool(), decided[:, i]
        expected += [(true & found), (true & ~found), (~true & found), (~true & ~found)]
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == [str(int(rows.sum())) for rows in expected]


def test_calibration_shows_filled_bins_alone() -> None:
    count, nan = np.array([0.0, 3.0, 1.0]), math.nan
    confidence, accuracy = np.array([nan, 0.5, 0.9]), np.array([nan, 0.7, 1.0])
    upper = draw_calibration(count, confidence, accuracy, 0.175, "title").axes[0]
    assert np.asarray(upper.lines[0].get_xydata()).tolist() == [[0.5, 0.7], [0.9, 1.0]]
    assert "calibration error 0.175" in str(upper.lines[0].get_label())


def test_pyplot_is_left_alone() -> None:
    check = (
        "import sys, lit_gpt_kit.callbacks.classification_plots; "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr

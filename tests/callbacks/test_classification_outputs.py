"""What a step returns, read as rows."""

from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from lit_gpt_kit.callbacks.classification_outputs import log_odds, read_outputs
from lit_gpt_kit.errors import InputError


def read(logits: Any, labels: Any) -> Any:
    return read_outputs({"logits": logits, "labels": labels}, "validation_step")


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_log_odds_are_those_of_the_softmax(num_classes: int, scale: float) -> None:
    logits = torch.randn(200, num_classes, generator=torch.Generator().manual_seed(0)) * scale
    p = logits.double().softmax(dim=1)
    expected = p.log() - (1 - p).log()
    trusted = p < 1 - 1e-9  # beyond, float64 has too few digits to tell 1 - p
    torch.testing.assert_close(
        log_odds(logits).double()[trusted], expected[trusted], rtol=1e-5, atol=1e-5
    )


def test_log_odds_tell_sure_from_surer() -> None:
    logits = tensor([[0.0, 30.0], [0.0, 90.0], [0.0, 500.0]])
    assert logits.softmax(dim=1)[:, 1].tolist() == [1.0, 1.0, 1.0]
    assert log_odds(logits)[:, 1].tolist() == [30.0, 90.0, 500.0]
    assert log_odds(logits)[:, 0].tolist() == [-30.0, -90.0, -500.0]


def test_a_class_that_is_ruled_out() -> None:
    odds = log_odds(tensor([[1.0, 3.0, float("-inf")]]))
    torch.testing.assert_close(odds, tensor([[-2.0, 2.0, float("-inf")]]))


def test_one_label_a_row() -> None:
    rows = read(tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]), tensor([1, 2]))
    assert (rows.num_classes, rows.is_multilabel) == (3, False)
    assert rows.decisions.tolist() == [1, 0]
    assert rows.labels.tolist() == [1, 2]


@pytest.mark.parametrize("logits_shape", [(3,), (3, 1)])
@pytest.mark.parametrize("labels_shape", [(3,), (3, 1)])
def test_yes_or_no(logits_shape: tuple[int, ...], labels_shape: tuple[int, ...]) -> None:
    logits, labels = tensor([-1.0, 0.5, 4.0]), tensor([0.0, 0.0, 1.0])
    rows = read(logits.view(logits_shape), labels.view(labels_shape))
    assert (rows.num_classes, rows.is_multilabel) == (2, False)
    torch.testing.assert_close(rows.log_odds[:, 1], tensor([-1.0, 0.5, 4.0]))
    assert rows.decisions.tolist() == [0, 1, 1]
    assert rows.labels.tolist() == [0, 0, 1]


def test_several_labels_a_row() -> None:
    rows = read(tensor([[0.3, -1.0], [0.1, 0.2]]), tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert (rows.num_classes, rows.is_multilabel) == (2, True)
    assert rows.decisions.tolist() == [[1, 0], [1, 1]]


def test_filler_is_left_out() -> None:
    rows = read(tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]), tensor([-100, 0, -100]))
    assert (rows.labels.tolist(), len(rows.log_odds), len(rows.decisions)) == ([0], 1, 1)
    rows = read(torch.zeros(2, 2), tensor([[0, 0], [-100, -100]]))
    assert rows.labels.tolist() == [[0, 0]]
    assert len(read(torch.zeros(2, 3), tensor([-100, -100])).labels) == 0


def test_bf16_is_read() -> None:
    logits = tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.bfloat16)
    assert read(logits, tensor([0, 1])).log_odds.dtype == torch.float32


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (None, "nothing"),
        (tensor(1.0), "a Tensor"),
        ({"loss": tensor(1.0), "logits": torch.zeros(2, 2)}, "a dict of 'loss', 'logits'"),
        ({}, "a dict of nothing"),
        ({"logits": [[1.0, 2.0]], "labels": [1]}, "a dict of 'logits', 'labels'"),
    ],
)
def test_other_outputs_are_refused(outputs: Any, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_outputs(outputs, "validation_step")
    assert f"what validation_step returns ({said}); return {{'logits': ..." in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(3, 4), torch.zeros(2)),
        (torch.zeros(3, 4), torch.zeros(3, 3)),
        (torch.zeros(3, 4, 5), torch.zeros(3, 4)),
        (tensor(1.0), tensor(1)),
        (torch.zeros(3, 1), torch.zeros(2)),
    ],
)
def test_other_shapes_are_refused(logits: Tensor, labels: Tensor) -> None:
    with pytest.raises(InputError, match=r"cannot score logits \(.*\) with labels \(.*\) of val"):
        read(logits, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (torch.zeros(2, 3), tensor([1, 3]), "is 3; labels run from 0 to 2"),
        (torch.zeros(2, 3), tensor([1, -1]), "is -1; labels run from 0 to 2"),
        (torch.zeros(2, 3), tensor([0.5, 1.0]), "is 0.5; labels run"),
        (torch.zeros(2), tensor([1, 2]), "is 2; labels run from 0 to 1"),
        (torch.zeros(2, 3), tensor([[1, 2, 0], [0, 0, 0]]), "is 2; labels run from 0 to 1"),
        (torch.zeros(2, 3), tensor([[1, -100, 0], [0, 0, 0]]), "is -100; labels run from 0 to 1"),
        (torch.zeros(1, 3), tensor([float("nan")]), "is nan; labels run"),
    ],
)
def test_labels_that_cannot_be_are_refused(logits: Tensor, labels: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(logits, labels)

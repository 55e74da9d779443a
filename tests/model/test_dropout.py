"""Dropout on a CPU: torch's distribution, another way to draw it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_gpt_kit.model.dropout import Dropout, drop


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.08, 0.5, 0.9])
def test_share_dropped_and_mean_are_those_of_torch(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = drop(torch.ones(1000, 1000, dtype=dtype), probability, True)
    # Five standard deviations of a binomial share of a million.
    spread = 5 * (probability * (1 - probability) / 1e6) ** 0.5
    assert (ours == 0).double().mean().item() == pytest.approx(probability, abs=spread)
    theirs = F.dropout(torch.ones(64, dtype=dtype), probability).max()
    assert ours.max().item() == pytest.approx(theirs.item(), rel=1e-3 if dtype.itemsize > 2 else 0)


def test_numbers_are_dropped_independently() -> None:
    torch.manual_seed(1)
    kept = (drop(torch.ones(1 << 20), 0.3, True) > 0).double() - 0.7
    # Four numbers share a word of 64 bits; a correlation has standard deviation 2^-10.
    for lag in (1, 2, 3, 4, 5):
        assert abs((kept[lag:] * kept[:-lag]).mean() / kept.var()) < 5e-3, lag


def test_gradient_is_dropped_where_the_number_was() -> None:
    x = torch.randn(3, 5, 7, requires_grad=True)
    out = drop(x, 0.4, True)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, out)


def test_seed_decides_and_a_number_of_any_shape_is_drawn() -> None:
    masks = []
    for _ in range(2):
        torch.manual_seed(7)
        masks.append(drop(torch.ones(5, 3).t(), 0.5, True))
    assert torch.equal(*masks)
    assert masks[0].shape == (3, 5)
    assert drop(torch.ones(0), 0.5, True).shape == (0,)


def test_nothing_is_dropped_out_of_training_and_almost_all_is_no_division_by_zero() -> None:
    x = torch.randn(8)
    layer = Dropout(0.5)
    assert isinstance(layer, nn.Dropout)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert drop(torch.ones(1000), 0.999999, True).isfinite().all()

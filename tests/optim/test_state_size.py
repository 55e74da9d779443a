"""What optimisers keep, as their papers say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from lit_gpt_kit.optim.muon import MuonAdamW
from lit_gpt_kit.optim.state_size import state_numbers_by_part


@pytest.mark.parametrize(
    ("make", "matrices", "others", "vectors"),
    [
        (lambda params: torch.optim.AdamW(params, fused=True), 2, 2, 2),
        (lambda params: torch.optim.AdamW(params, amsgrad=True), 3, 3, 3),
        (lambda params: torch.optim.SGD(params, lr=0.1), 0, 0, 0),
        (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), 1, 1, 1),
        (MuonAdamW, 1, 2, 2),
        # Rows and columns of a matrix (Shazeer and Stern 2018).
        (torch.optim.Adafactor, 2 * 64 / 64**2, 2 * 64 / 64**2, 1),
    ],
    ids=["adamw", "amsgrad", "sgd", "momentum", "muon", "adafactor"],
)
def test_numbers_kept(
    make: Callable[[Any], Optimizer], matrices: float, others: float, vectors: float
) -> None:
    assert state_numbers_by_part(make) == {
        "hidden": matrices,
        "embeddings": others,
        "head": others,
        "vectors": vectors,
    }

"""Which way a metric is better."""

from typing import Any

import pytest

from lit_gpt_kit.callbacks.text_metrics import TEXT_METRICS
from lit_gpt_kit.loggers.direction import direction


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("val/loss", min),
        ("val/bits_per_byte", min),
        ("test/calibration_error", min),
        ("val/f1_loss", max),
        ("val/rougeL", max),
        ("val/something", None),
        ("train/loss", None),
    ],
)
def test_direction(name: str, better: Any) -> None:
    assert direction(name) is better


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_scores_of_what_a_model_writes_are_known(name: str) -> None:
    assert direction(f"val/{name}") is max

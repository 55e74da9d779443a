"""`trainer.deterministic: true` is all that it takes for two runs to be equal bit for bit."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_gpt_kit import GPTConfig, MuonAdamW, TextDataModule
from tests.tiny import make_task, make_trainer

# Wide enough that torch gives parts of a matrix to several threads.
WIDE = GPTConfig(num_layers=2, num_heads=2, embed_dim=64, block_size=64, dropout=0.1)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)


def weights_after(
    make_data: Callable[..., TextDataModule], folder: Path, **options: Any
) -> dict[str, torch.Tensor]:
    task = make_task(WIDE, MuonAdamW)
    data = make_data(batch_size=8, isolate_documents=True)
    make_trainer(folder, 3, deterministic=True, gradient_clip_val=1.0, **options).fit(task, data)
    return task.state_dict()


@pytest.mark.parametrize("num_threads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_runs_are_equal(
    precision: str,
    num_threads: int,
    make_data: Callable[..., TextDataModule],
    tmp_path: Path,
) -> None:
    torch.set_num_threads(num_threads)
    options = {"precision": precision}
    once, again = (weights_after(make_data, tmp_path, **options) for _ in range(2))
    assert torch.are_deterministic_algorithms_enabled()
    for name, weight in once.items():
        assert torch.equal(weight, again[name]), name


def test_no_environment_variable_is_needed(tmp_path: Path) -> None:
    make_trainer(tmp_path, 1, deterministic=True)
    # What cuBLAS asks for; Lightning sets it.
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"

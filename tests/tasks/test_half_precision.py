"""float16 and its scaler: a fused optimiser clips, logs and passes over steps as another does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from lit_gpt_kit import LanguageModeling, TextDataModule
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]
STEPS = 3


class Norms(Callback):
    """The norm of each step's gradient; makes one of them infinite."""

    def __init__(self, bad_step: int = 0) -> None:
        self.bad_step = bad_step
        self.seen: list[float] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step + 1 == self.bad_step:
            next(pl_module.parameters()).grad[0, 0] = float("inf")  # type: ignore[index]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step > len(self.seen):
            self.seen.append(float(pl_module.step_gradient_norm))


def fit(
    data: TextDataModule,
    folder: Path,
    fused: bool,
    half: bool = True,
    bad_step: int = 0,
    **options: Any,
) -> tuple[LanguageModeling, list[float]]:
    # Lightning makes bfloat16 of "16-mixed" on a CPU, but not of its plugin.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if half else []
    task = make_task(TINY, lambda params: torch.optim.AdamW(params, lr=1e-2, eps=1e-3, fused=fused))
    norms = Norms(bad_step)
    make_trainer(
        folder, STEPS, plugins=plugins, callbacks=[norms], accumulate_grad_batches=2, **options
    ).fit(task, data)
    return task, norms.seen


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("bad_step", [0, 2])
def test_a_fused_optimiser_trains_as_another(
    algorithm: str, bad_step: int, make_data: MakeData, tmp_path: Path
) -> None:
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    plain, norms = fit(make_data(), tmp_path, False, bad_step=bad_step, **options)
    fused, ours = fit(make_data(), tmp_path, True, bad_step=bad_step, **options)
    assert ours == pytest.approx(norms, rel=1e-5)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], weight, rtol=1e-5, atol=1e-6)


def test_the_norm_is_that_of_single_precision(make_data: MakeData, tmp_path: Path) -> None:
    _, single = fit(make_data(), tmp_path, True, half=False)
    _, half = fit(make_data(), tmp_path, True)
    assert half == pytest.approx(single, rel=0.02)


def test_clips_values_under_bfloat16(make_data: MakeData, tmp_path: Path) -> None:
    """Which Lightning refuses with a fused optimiser."""
    options = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
    clipped = []

    class Look(Callback):
        def on_before_zero_grad(self, trainer: Trainer, module: LightningModule, _: Any) -> None:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            clipped.extend(float(gradient.abs().max()) for gradient in gradients)

    task = make_task(TINY, lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True))
    make_trainer(tmp_path, 2, precision="bf16-mixed", callbacks=[Look()], **options).fit(
        task, make_data()
    )
    assert max(clipped) == pytest.approx(1e-3, rel=1e-5)

"""Rates that rise together, the loss of whole steps, and everything as it was afterwards."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lit_gpt_kit import MuonAdamW, TextDataModule, TokenizerConfig
from lit_gpt_kit.callbacks.rate_sweep import (
    RateSweep,
    SweptPoint,
    is_over,
    smooth,
    suggest_factors,
)
from lit_gpt_kit.errors import InputError
from tests.tiny import TINY, make_task, make_trainer

STEPS = 12
TEXT = "the quick brown fox jumps over the lazy dog and runs away from it\n" * 30


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., TextDataModule]:
    (tmp_path / "poem.txt").write_text(TEXT)

    def make(**options: Any) -> TextDataModule:
        settings = {"tokenizer": TokenizerConfig("byte"), "cache_dir": str(tmp_path / "cache")}
        return TextDataModule([str(tmp_path / "poem.txt")], **{**settings, **options})

    return make


MakeData = Callable[..., TextDataModule]


class Watch(Callback):
    """The rates that the optimiser steps with, and the state before the first step."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.before: list[Any] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = state(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def state(trainer: Trainer, module: LightningModule) -> list[Any]:
    optimizer = trainer.optimizers[0].state_dict()
    return copy.deepcopy([module.state_dict(), optimizer["state"], optimizer["param_groups"]])


def sweep(make_data: MakeData, folder: Path, *callbacks: Callback, **options: Any) -> Any:
    swept = RateSweep(0.01, 100.0, STEPS)
    watch = Watch()
    task = make_task(TINY, lambda params: MuonAdamW(params, lr=0.02, adamw_lr=0.003))
    trainer = make_trainer(folder, STEPS + 1, callbacks=[watch, swept, *callbacks])
    data = make_data(**options)
    return swept, watch, trainer, task, data


def test_all_rates_rise_together(make_data: MakeData, tmp_path: Path) -> None:
    swept, watch, trainer, task, data = sweep(make_data, tmp_path)
    trainer.fit(task, data)
    assert len(watch.rates) == len(swept.points) + 1
    factors = np.geomspace(0.01, 100.0, STEPS)
    for rates, factor in zip(watch.rates, factors, strict=False):
        # The warm-up of the schedule is off: it would begin at a quarter.
        assert rates == pytest.approx([0.02 * factor, 0.003 * factor, 0.003 * factor])
    assert [p.factor for p in swept.points] == pytest.approx(factors[: len(swept.points)].tolist())


def test_the_loss_is_that_of_whole_steps(make_data: MakeData, tmp_path: Path) -> None:
    curves = []
    for batch_size in (8, 2):
        options = {"batch_size": batch_size, "global_batch_tokens": 64}
        swept, _, trainer, task, data = sweep(make_data, tmp_path, **options)
        trainer.fit(task, data)
        curves.append([point.loss for point in swept.points[:6]])
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)  # Muon is computed in bfloat16
    assert len(curves[0]) == 6


def assert_restored(trainer: Trainer, task: LightningModule, before: list[Any]) -> None:
    weights, moments, groups = state(trainer, task)
    for name, value in before[0].items():
        assert torch.equal(weights[name], value), name
    assert moments == before[1] == {}
    assert groups == before[2]
    assert len(trainer.lr_scheduler_configs) == 1


def test_afterwards_all_is_as_it_was(make_data: MakeData, tmp_path: Path) -> None:
    _, watch, trainer, task, data = sweep(make_data, tmp_path)
    trainer.fit(task, data)
    assert_restored(trainer, task, watch.before)
    assert task.num_tokens_seen == 0


def test_an_interrupted_sweep_puts_all_back(make_data: MakeData, tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 4:
                raise KeyboardInterrupt

    kept: list[list[Any]] = []

    class Look(Callback):
        def on_exception(self, trainer: Trainer, module: Any, exception: BaseException) -> None:
            kept.append(state(trainer, module))

    _, watch, trainer, task, data = sweep(make_data, tmp_path, Interrupt(), Look())
    with pytest.raises(SystemExit):
        trainer.fit(task, data)
    for name, value in watch.before[0].items():
        assert torch.equal(kept[0][0][name], value), name
    assert kept[0][1:] == watch.before[1:]


# ---- what is made of the losses ----


def curve(loss: Callable[[float], float], lowest: float = 1e-3) -> list[SweptPoint]:
    return [SweptPoint(f, loss(f)) for f in np.geomspace(lowest, 100.0, 200).tolist()]


def falling(factor: float) -> float:
    """Steepest, by the logarithm, at 0.1."""
    return 5.0 - 3.0 / (1 + math.exp(-4 * math.log(factor / 0.1)))


def steepest(points: list[SweptPoint]) -> float:
    found = suggest_factors(points)
    assert found is not None
    return found[0]


def test_says_where_the_loss_is_lowest() -> None:
    found = suggest_factors(curve(lambda factor: 3 + math.log(factor / 2) ** 2 / 9))
    assert found is not None
    assert found[1] == pytest.approx(2.0, rel=0.1)
    assert found[0] < found[1]


def test_suggests_where_the_loss_falls_fastest() -> None:
    assert steepest(curve(falling)) == pytest.approx(0.1, rel=0.05)


def test_looks_no_further_than_the_lowest_loss() -> None:
    points = curve(lambda factor: falling(factor) + (20.0 if 3 < factor < 30 else 0.0))
    assert steepest(points) == pytest.approx(0.1, rel=0.05)


def test_losses_through_the_roof_do_not_reach_back() -> None:
    points = [*curve(falling)[:150], *(SweptPoint(10.0, 1e9),) * 5]
    assert steepest(points) == pytest.approx(0.1, rel=0.05)


def test_a_loss_that_rises_suggests_nothing() -> None:
    assert suggest_factors(curve(lambda factor: 1.0 + factor)) is None
    assert suggest_factors(curve(falling)[:8]) is None


def test_smoothed_losses_are_means_of_neighbours() -> None:
    assert smooth([3.0] * 200) == pytest.approx([3.0] * 200)
    first, middle, last = smooth([1.0, 2.0, 4.0])
    assert first == pytest.approx((1 + 0.9 * 2 + 0.81 * 4) / 2.71)
    assert middle == pytest.approx((0.9 * 1 + 2 + 0.9 * 4) / 2.8)
    assert last == pytest.approx((0.81 * 1 + 0.9 * 2 + 4) / 2.71)


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ([], False),
        ([math.nan], True),
        ([math.inf], True),
        ([3.0] * 50, False),
        ([3.0] * 6 + [50.0], True),
        ([3.0] * 6 + [3.5], False),
        ([3.0, 3.0, 9.0], False),  # too early to tell
    ],
)
def test_is_over_where_the_loss_leaves_its_range(losses: list[float], over: bool) -> None:
    assert is_over([SweptPoint(1.0, loss) for loss in losses]) is over


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ((0.0, 1.0, 100), "lowest=0.0 must be above 0 and below highest=1.0"),
        ((2.0, 1.0, 100), "lowest=2.0 must be above 0 and below highest=1.0"),
        ((0.1, 1.0, 10), "num_steps=10 must be above 10"),
    ],
)
def test_ranges_of_nothing(values: tuple[float, float, int], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        RateSweep(*values)
    assert str(caught.value) == complaint


def test_a_module_without_the_loss_of_a_step_is_refused(tmp_path: Path) -> None:
    class Other(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.layer(batch).sum()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer(tmp_path, 3, callbacks=[RateSweep()])
    with pytest.raises(InputError, match="Other does not say what the loss of a step is"):
        trainer.fit(Other(), torch.utils.data.DataLoader(torch.ones(4, 1)))  # type: ignore[arg-type]

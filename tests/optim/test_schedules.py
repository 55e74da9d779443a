"""Learning-rate schedules against closed forms, and what a continued run makes of them."""

import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lit_gpt_kit import GPTConfig, LanguageModeling
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.optim.schedules import (
    WarmupCosine,
    WarmupLinear,
    WarmupSchedule,
    WarmupStableDecay,
)
from tests.tiny import make_trainer

SCHEDULES = [WarmupCosine, WarmupLinear, WarmupStableDecay, WarmupSchedule]
CONFIG = GPTConfig(vocab_size=17, num_layers=1, num_heads=2, embed_dim=8, block_size=4)


def make_optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


def rates_of(schedule: WarmupSchedule, num_steps: int) -> list[float]:
    """The optimiser's learning rate in each step from now on."""
    rates = []
    for _ in range(num_steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        assert schedule.get_last_lr()[0] == rates[-1]
        schedule.optimizer.step()
        schedule.step()
    return rates


def nanogpt_rate(it: int, lr: float, warmup: int, decay: int, min_lr: float) -> float:
    """`get_lr` of nanoGPT's train.py, written down from its formulas."""
    if it < warmup:
        return lr * (it + 1) / (warmup + 1)
    if it > decay:
        return min_lr
    ratio = (it - warmup) / (decay - warmup)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (lr - min_lr)


@pytest.mark.parametrize(
    ("warmup", "decay", "min_factor"), [(10, 60, 0.1), (0, 40, 0.0), (25, 26, 0.5), (5, 80, 1.0)]
)
def test_cosine_is_nanogpts(warmup: int, decay: int, min_factor: float) -> None:
    schedule = WarmupCosine(make_optimizer(6e-4), warmup, decay, min_factor)
    expected = [nanogpt_rate(it, 6e-4, warmup, decay, min_factor * 6e-4) for it in range(90)]
    assert rates_of(schedule, 90) == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_linear_is_a_line() -> None:
    schedule = WarmupLinear(make_optimizer(0.2), warmup_steps=4, total_steps=12, min_factor=0.25)
    expected = [
        *(0.2 * (step + 1) / 5 for step in range(4)),
        *(0.2 * (1 - 0.75 * (step - 4) / 8) for step in range(4, 12)),
        *[0.05] * 3,
    ]
    assert rates_of(schedule, 15) == pytest.approx(expected, rel=1e-12)


def test_stable_decay_holds_then_falls() -> None:
    schedule = WarmupStableDecay(
        make_optimizer(0.2), warmup_steps=3, total_steps=20, min_factor=0.1, decay_fraction=0.25
    )
    expected = [
        *(0.2 * (step + 1) / 4 for step in range(3)),
        *[0.2] * 12,
        *(0.2 * (1 - 0.9 * (step - 15) / 5) for step in range(15, 20)),
        *[0.02] * 4,
    ]
    assert rates_of(schedule, 24) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 0.7, 0.9, 1.0])
def test_stable_decay_falls_in_its_fraction(fraction: float) -> None:
    schedule = WarmupStableDecay(make_optimizer(1.0), total_steps=10, decay_fraction=fraction)
    num_falling = round(10 * fraction)
    expected = [1.0] * (10 - num_falling) + [1 - i / num_falling for i in range(num_falling)]
    assert rates_of(schedule, 10) == pytest.approx(expected)


def test_stable_decay_begins_after_the_warmup() -> None:
    schedule = WarmupStableDecay(
        make_optimizer(1.0), warmup_steps=6, total_steps=10, decay_fraction=0.9
    )
    expected = [(step + 1) / 7 for step in range(6)] + [1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates_of(schedule, 11) == pytest.approx(expected)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_without_an_end_the_rate_stays(kind: type[WarmupSchedule]) -> None:
    schedule = kind(make_optimizer(0.4), warmup_steps=3)
    assert rates_of(schedule, 50) == pytest.approx([0.1, 0.2, 0.3, *[0.4] * 47])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_warmup_longer_than_the_run_still_rises_in_a_line(kind: type[WarmupSchedule]) -> None:
    schedule = kind(make_optimizer(1.0), warmup_steps=9, total_steps=5)
    assert rates_of(schedule, 9) == pytest.approx([(step + 1) / 10 for step in range(9)])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_each_group_keeps_its_share(kind: type[WarmupSchedule]) -> None:
    schedule = kind(make_optimizer(0.1, 0.3), warmup_steps=2, total_steps=9, min_factor=0.2)
    for _ in range(12):
        first, second = schedule.optimizer.param_groups
        assert second["lr"] == pytest.approx(3 * first["lr"])
        assert schedule.get_last_lr() == [first["lr"], second["lr"]]
        schedule.optimizer.step()
        schedule.step()


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 7, 12, 30])
def test_a_restored_schedule_goes_on_alike(kind: type[WarmupSchedule], stop: int) -> None:
    shape = {"warmup_steps": 3, "total_steps": 25, "min_factor": 0.1}
    schedule = kind(make_optimizer(0.2), **shape)
    rates_of(schedule, stop)
    restored = kind(make_optimizer(0.2), **shape)
    restored.load_state_dict(schedule.state_dict())
    assert restored.last_epoch == stop
    assert rates_of(restored, 30) == rates_of(schedule, 30)


def test_the_state_is_where_it_stands_alone() -> None:
    schedule = WarmupCosine(make_optimizer(0.2), warmup_steps=3, total_steps=25)
    rates_of(schedule, 5)
    nothing = {"tokens": 0.0, "seconds": 0.0}
    place = {"last_epoch": 5, "_step_count": 6, "done": nothing, "start": nothing}
    assert schedule.state_dict() == place


def test_a_restored_schedule_has_the_shape_configured_now() -> None:
    old = WarmupCosine(make_optimizer(0.2), warmup_steps=3, total_steps=25)
    rates_of(old, 10)
    new = WarmupCosine(make_optimizer(0.5), warmup_steps=5, total_steps=40, min_factor=0.1)
    new.load_state_dict(old.state_dict())
    expected = [nanogpt_rate(it, 0.5, 5, 40, 0.05) for it in range(10, 45)]
    assert rates_of(new, 35) == pytest.approx(expected)


def test_total_steps_are_filled_in_once() -> None:
    schedule = WarmupLinear(make_optimizer(1.0))
    schedule.set_total_steps(10)
    schedule.set_total_steps(1000)
    assert schedule.total_steps == 10
    assert rates_of(schedule, 11) == pytest.approx([1 - step / 10 for step in range(11)])


def test_total_steps_known_late_take_hold_at_once() -> None:
    schedule = WarmupLinear(make_optimizer(1.0))
    rates_of(schedule, 4)
    schedule.set_total_steps(10)
    assert rates_of(schedule, 7) == pytest.approx([1 - step / 10 for step in range(4, 11)])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (WarmupCosine, {"warmup_steps": -1}, "warmup_steps=-1 must be at least 0"),
        (WarmupLinear, {"min_factor": 1.5}, "min_factor=1.5 must be between 0 and 1"),
        (WarmupCosine, {"min_factor": -0.1}, "min_factor=-0.1 must be between 0 and 1"),
        (WarmupStableDecay, {"decay_fraction": 2.0}, "decay_fraction=2.0 must be between 0 and 1"),
        (WarmupLinear, {"total_steps": 0}, "total_steps=0 must be above 0"),
        (WarmupLinear, {"total_tokens": -5}, "total_tokens=-5 must be above 0"),
        (
            WarmupCosine,
            {"total_tokens": 5, "total_seconds": 2.0},
            "total_tokens and total_seconds are both given; a run has one length",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(
    kind: type[WarmupSchedule], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        kind(make_optimizer(0.1), **values)
    assert str(caught.value) == message


# ---- by tokens, by seconds ----


@pytest.mark.parametrize("unit", ["tokens", "seconds"])
@pytest.mark.parametrize("kind", [WarmupCosine, WarmupLinear, WarmupStableDecay])
def test_even_steps_are_a_schedule_by_steps(kind: type[WarmupSchedule], unit: str) -> None:
    by_steps = kind(make_optimizer(0.2), warmup_steps=3, total_steps=20, min_factor=0.1)
    total = {"total_tokens": 2000} if unit == "tokens" else {"total_seconds": 10.0}
    schedule = kind(make_optimizer(0.2), warmup_steps=3, min_factor=0.1, **total)
    rates = []
    for _ in range(22):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        assert schedule.is_over == (len(rates) > 20)
        schedule.optimizer.step()
        schedule.advance(100, 0.5)
        schedule.step()
    assert rates == pytest.approx(rates_of(by_steps, 22))


def test_steps_of_other_sizes_count_as_they_are() -> None:
    schedule = WarmupLinear(make_optimizer(1.0), total_tokens=100)
    rates = []
    for num_tokens in (10, 50, 20, 30):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.advance(num_tokens, 1.0)
        schedule.step()
    assert rates == pytest.approx([1.0, 0.9, 0.4, 0.2])
    assert schedule.is_over


def test_a_schedule_by_seconds_is_restored() -> None:
    def some_steps(schedule: WarmupSchedule, num_steps: int) -> list[float]:
        rates = []
        for _ in range(num_steps):
            rates.append(schedule.optimizer.param_groups[0]["lr"])
            schedule.optimizer.step()
            schedule.advance(7, 0.3)
            schedule.step()
        return rates

    through = WarmupCosine(make_optimizer(0.2), warmup_steps=2, total_seconds=6.0)
    schedule = WarmupCosine(make_optimizer(0.2), warmup_steps=2, total_seconds=6.0)
    before = some_steps(schedule, 5)
    restored = WarmupCosine(make_optimizer(0.2), warmup_steps=2, total_seconds=6.0)
    restored.load_state_dict(schedule.state_dict())
    assert before + some_steps(restored, 20) == some_steps(through, 25)


# ---- in a run ----


class RecordGroups(Callback):
    """What the optimiser was told in each step."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
        group = trainer.optimizers[0].param_groups[0]
        self.groups.append({k: v for k, v in group.items() if k != "params"})

    @property
    def rates(self) -> list[float]:
        return [group["lr"] for group in self.groups]


def fit(
    folder: Path,
    max_steps: int,
    schedule: Callable[[torch.optim.Optimizer], Any] | None,
    ckpt_path: Path | None = None,
    **adam: Any,
) -> tuple[RecordGroups, Trainer]:
    """A run of one batch a step; the last step's checkpoint is `folder`/end.ckpt."""
    ids = torch.randint(17, (2, 4), generator=torch.Generator().manual_seed(0))
    batches = DataLoader([{"input_ids": ids, "targets": ids}] * 50, batch_size=None)
    task = LanguageModeling(CONFIG, lambda params: torch.optim.AdamW(params, **adam), schedule)
    record = RecordGroups()
    trainer = make_trainer(folder, max_steps, callbacks=[record])
    trainer.fit(task, batches, ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt")
    return record, trainer


def test_the_trainer_says_how_long_the_run_is(tmp_path: Path) -> None:
    record, _ = fit(tmp_path, 8, lambda opt: WarmupCosine(opt, warmup_steps=2), lr=0.01)
    expected = [nanogpt_rate(it, 0.01, 2, 8, 0.0) for it in range(8)]
    assert record.rates == pytest.approx(expected)


def test_a_length_that_is_given_wins(tmp_path: Path) -> None:
    record, _ = fit(tmp_path, 8, lambda opt: WarmupCosine(opt, 2, total_steps=20), lr=0.01)
    assert record.rates == pytest.approx([nanogpt_rate(it, 0.01, 2, 20, 0.0) for it in range(8)])


def test_a_continued_run_has_the_same_rates(tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> WarmupCosine:
        return WarmupCosine(optimizer, 2, total_steps=10, min_factor=0.1)

    through, _ = fit(tmp_path, 10, schedule, lr=0.01)
    before, _ = fit(tmp_path, 4, schedule, lr=0.01)
    after, trainer = fit(tmp_path, 10, schedule, ckpt_path=tmp_path / "end.ckpt", lr=0.01)
    assert before.rates + after.rates == through.rates
    assert trainer.global_step == 10


def test_what_is_configured_wins_over_the_checkpoint(tmp_path: Path) -> None:
    fit(
        tmp_path,
        4,
        lambda opt: WarmupCosine(opt, 2, min_factor=0.1),
        lr=0.01,
        betas=(0.9, 0.999),
        weight_decay=0.1,
    )
    record, trainer = fit(
        tmp_path,
        12,
        lambda opt: WarmupCosine(opt, 3, min_factor=0.5),
        ckpt_path=tmp_path / "end.ckpt",
        lr=0.03,
        betas=(0.8, 0.95),
        weight_decay=0.2,
        eps=1e-6,
    )
    expected = [nanogpt_rate(it, 0.03, 3, 12, 0.015) for it in range(4, 12)]
    assert record.rates == pytest.approx(expected)
    for group in record.groups:
        assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.8, 0.95), 0.2, 1e-6)
    assert trainer.optimizers[0].param_groups[-1]["weight_decay"] == 0.0
    steps = {int(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert steps == {12}  # the moments went on


def test_without_a_schedule_the_configured_rate_wins(tmp_path: Path) -> None:
    before, _ = fit(tmp_path, 3, None, lr=0.01)
    after, _ = fit(tmp_path, 6, None, ckpt_path=tmp_path / "end.ckpt", lr=0.03)
    assert (before.rates, after.rates) == ([0.01] * 3, [0.03] * 3)


def test_a_run_ends_with_its_tokens(tmp_path: Path) -> None:
    # A step has 8 tokens.
    record, trainer = fit(tmp_path, -1, lambda opt: WarmupLinear(opt, total_tokens=80), lr=1.0)
    assert trainer.global_step == 10
    assert record.rates == pytest.approx([1 - step / 10 for step in range(10)])
    again, trainer = fit(
        tmp_path,
        -1,
        lambda opt: WarmupLinear(opt, total_tokens=120),
        ckpt_path=tmp_path / "end.ckpt",
        lr=1.0,
    )
    assert trainer.global_step == 15
    assert again.rates == pytest.approx([1 - step / 15 for step in range(10, 15)])


def test_a_run_ends_with_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)) / 2)
    monkeypatch.setattr("lit_gpt_kit.tasks.exact_step.time", time)
    record, trainer = fit(tmp_path, -1, lambda opt: WarmupLinear(opt, total_seconds=3.0), lr=1.0)
    assert trainer.global_step == len(record.rates)
    assert record.rates[0] == 1.0
    assert all(a > b for a, b in pairwise(record.rates))
    assert record.rates[-1] > 0.0


def test_a_run_of_a_given_time_falls_over_that_time(tmp_path: Path) -> None:
    ids = torch.randint(17, (2, 4))
    task = LanguageModeling(
        CONFIG, lambda params: torch.optim.AdamW(params, lr=1.0), lambda opt: WarmupLinear(opt)
    )
    batches = DataLoader([{"input_ids": ids, "targets": ids}] * 2000, batch_size=None)
    trainer = make_trainer(tmp_path, -1, max_time="00:00:00:02")
    trainer.fit(task, batches)
    (config,) = trainer.lr_scheduler_configs
    assert config.scheduler.unit == "seconds"
    assert config.scheduler.total_seconds == pytest.approx(2.0, abs=0.1)
    assert config.scheduler.get_last_lr()[0] < 0.1

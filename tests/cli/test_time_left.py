"""The time left, foretold by a clock that moves when the test says so."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Timer

from lit_gpt_kit import WarmupLinear
from lit_gpt_kit.cli import time_left
from lit_gpt_kit.cli.time_left import MEMORY_SECONDS, TimeLeft, clock_text


class Run:
    """A Trainer without a network: `step` ends a step, `validate` takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(time_left, "time", clock)
        given: dict[str, Any] = {
            "estimated_stepping_batches": 100, "max_steps": 100, "global_step": 0,
            "accumulate_grad_batches": 1, "lr_scheduler_configs": [], "callbacks": [],
            "enable_validation": False, "val_check_batch": math.inf,
            "check_val_every_n_epoch": None, "num_training_batches": math.inf,
            "num_val_batches": [0],
        }  # fmt: skip
        self.trainer: Any = SimpleNamespace(**given | settings)
        self.left = TimeLeft(self.trainer)

    def micro_batch(self, seconds: float, ends_step: bool) -> float | None:
        self.left.start_batch()
        self.now += seconds
        self.trainer.global_step += int(ends_step)
        self.left.end_batch(self.trainer)
        return self.left.seconds()

    def steps(self, count: int, seconds: float) -> float | None:
        for _ in range(count):
            self.micro_batch(seconds, ends_step=True)
        return self.left.seconds()

    def validate(self, seconds: float) -> None:
        self.left.start_validation()
        self.now += seconds


def test_the_pace_is_known_from_the_second_step_and_the_first_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    assert run.steps(1, 60.0) is None  # it compiles
    assert run.steps(1, 2.0) == pytest.approx(98 * 2)
    assert run.steps(10, 2.0) == pytest.approx(88 * 2)
    run.now += 5
    assert run.left.seconds() == pytest.approx(88 * 2 - 5)  # it runs down while nothing is told
    assert run.left.share_done == 0.12


def test_a_run_that_goes_on_is_as_fast_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, global_step=60)
    assert run.left.share_done == 0.6
    run.steps(1, 30.0)
    assert run.steps(1, 2.0) == pytest.approx(38 * 2)


def test_micro_batches_of_long_steps_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, accumulate_grad_batches=4)
    run.micro_batch(3.0, ends_step=False)
    assert run.micro_batch(3.0, ends_step=False) == pytest.approx(99.5 * 12)
    run.micro_batch(3.0, ends_step=False)
    assert run.micro_batch(3.0, ends_step=True) == pytest.approx(99 * 12)


def test_validations_still_to_come_are_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(
        monkeypatch, estimated_stepping_batches=40, max_steps=40, enable_validation=True,
        val_check_batch=10, num_val_batches=[6],
    )  # fmt: skip
    # Nothing is known of validation yet but its batches, a forward pass each.
    assert run.steps(2, 2.0) == pytest.approx(38 * 2 + 4 * 6 * 2 / 3)
    run.steps(8, 2.0)
    run.validate(30.0)
    assert run.steps(1, 2.0) == pytest.approx(29 * 2 + 3 * 30)
    end = run.now + 29 * 2 + 3 * 30
    for _ in range(3):
        left = run.steps(9, 2.0)
        assert left is not None
        assert run.now + left == pytest.approx(end)  # the one that is due now included
        run.validate(30.0)
        run.left.start_batch()
        run.steps(1, 2.0)
    assert run.trainer.global_step == 41
    assert run.now == pytest.approx(end + 2)


def test_validations_of_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(
        monkeypatch, estimated_stepping_batches=60, max_steps=-1, enable_validation=True,
        val_check_batch=7, check_val_every_n_epoch=2, num_training_batches=10,
    )  # fmt: skip
    run.steps(17, 1.0)
    run.validate(20.0)
    # One in the fourth epoch and one in the sixth.
    assert run.steps(1, 1.0) == pytest.approx(42 + 2 * 20)
    assert run.left.num_steps == 60


def test_validations_by_the_clock_keep_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, enable_validation=True, val_check_batch=None)
    run.steps(11, 2.0)
    run.validate(5.0)
    run.steps(10, 2.0)
    assert run.left.seconds() == pytest.approx(79 * 2 * (1 + 5 / 40))


def test_a_change_of_pace_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, estimated_stepping_batches=10**6, max_steps=10**6)
    run.steps(3601, 1.0)
    one_slow_step = run.steps(1, 10.0)
    # Steps of a second weigh 1 / (1 - e^(-1/M)) in all by then, and the slow one fades them once.
    kept = math.exp(-10 / MEMORY_SECONDS)
    usual = kept / (1 - math.exp(-1 / MEMORY_SECONDS))
    pace = (usual + 10) / (usual + 1)
    assert one_slow_step == pytest.approx((10**6 - 3602) * pace, rel=1e-3)
    assert pace < 1.09  # steady
    run.steps(400, 3.0)
    assert run.left.seconds() == pytest.approx((10**6 - 4002) * 3, rel=0.05)


def schedule(**length: float) -> WarmupLinear:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return WarmupLinear(optimizer, **length)  # type: ignore[arg-type]


def test_a_run_of_so_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    own = schedule(total_tokens=1000)
    run = Run(
        monkeypatch, estimated_stepping_batches=math.inf, max_steps=-1,
        accumulate_grad_batches=2, lr_scheduler_configs=[SimpleNamespace(scheduler=own)],
    )  # fmt: skip
    for tokens in (10, 20, 20):
        run.micro_batch(1.0, ends_step=False)
        own.advance(tokens, 0.0)
        run.micro_batch(1.0, ends_step=True)
    # From the end of the first micro-batch on: 50 tokens in 5 seconds, and 950 to come.
    assert run.left.seconds() == pytest.approx(95, rel=0.02)
    assert run.left.share_done == pytest.approx(0.05)
    assert run.left.num_steps is None
    run.micro_batch(1.0, ends_step=False)
    assert run.left.seconds() == pytest.approx(94, rel=0.02)


def test_a_run_of_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    own = schedule(total_seconds=100.0)
    settings = {"lr_scheduler_configs": [SimpleNamespace(scheduler=own)]}
    run = Run(monkeypatch, estimated_stepping_batches=math.inf, max_steps=-1, **settings)
    own.advance(0, 30.0)
    assert run.steps(1, 30.0) == 70.0
    assert run.left.share_done == 0.3
    # Its steps may be done before.
    run = Run(monkeypatch, estimated_stepping_batches=20, max_steps=20, **settings)
    assert run.steps(2, 2.0) == pytest.approx(36)
    assert run.left.num_steps == 20


def test_max_time_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopwatch(Timer):
        elapsed = 40.0

        def time_elapsed(self, stage: str = "train") -> float:
            return self.elapsed

    timer = Stopwatch({"seconds": 100})
    run = Run(monkeypatch, estimated_stepping_batches=math.inf, max_steps=-1, callbacks=[timer])
    assert run.steps(1, 1.0) == 60.0
    assert run.left.share_done == pytest.approx(0.4)


def test_a_run_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lightning's -1 of a loader without a length.
    for total in (math.inf, -1):
        run = Run(monkeypatch, estimated_stepping_batches=total, max_steps=-1)
        assert run.steps(3, 1.0) is None
        assert run.left.share_done is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (61, "0:01:01"), (86399, "23:59:59"), (86400 * 3 + 4 * 3600, "3d 04h")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text

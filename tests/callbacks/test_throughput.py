"""Throughput, timed by a clock that moves when the test says so."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from lit_gpt_kit import GPTConfig
from lit_gpt_kit.callbacks import throughput
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.callbacks.throughput import Throughput, peak_of
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.flops import training_flops_per_token
from lit_gpt_kit.tasks.window_warmup import WindowWarmup
from tests.tiny import make_task, make_trainer

NAME = "train/tokens_per_second"
BATCH_TOKENS = 2 * 8
LONG = 1000.0
CONFIG = GPTConfig(17, num_layers=1, num_heads=2, embed_dim=8, block_size=8)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=clock))
    return clock


class TakeTime(Callback):
    """Micro-batch i takes i + 1 seconds, whatever else happens a thousand."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.num_batches = 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.num_batches += 1
        self.clock.now += self.num_batches

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.now += LONG

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.now += LONG

    def on_train_epoch_start(self, *args: Any, **kwargs: Any) -> None:
        self.clock.now += LONG

    def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
        self.clock.now += LONG


class Batches:
    """Batches of 16 tokens, each of which is waited for."""

    def __init__(self, num_batches: int, wait: Callable[[], None] = lambda: None) -> None:
        self.num_batches, self.wait = num_batches, wait

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(self.num_batches):
            self.wait()
            yield {"input_ids": torch.ones(2, 8, dtype=torch.int64)} | {
                "targets": torch.ones(2, 8, dtype=torch.int64)
            }


class RecordLogger(Logger):
    """Keeps what is logged, by finished steps."""

    name = version = "record"

    def __init__(self) -> None:
        super().__init__()
        self.rates: dict[int, float] = {}
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if NAME in metrics:
            assert step is not None
            self.rows.append(metrics)
            self.rates[step + 1] = metrics[NAME]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def fit(
    folder: Path,
    clock: Clock,
    max_steps: int,
    num_batches: int = 100,
    val_batches: int = 0,
    callbacks: tuple[Callback, ...] = (),
    wait: Callable[[], None] = lambda: None,
    **options: Any,
) -> dict[int, float]:
    """What a run logs: tokens a second, by finished steps."""
    logger = RecordLogger()
    trainer: Trainer = make_trainer(
        folder,
        max_steps,
        logger=logger,
        callbacks=[TakeTime(clock), Throughput(), *callbacks],
        **options,
    )
    val = Batches(val_batches) if val_batches else None
    trainer.fit(make_task(CONFIG), Batches(num_batches, wait), val)
    return logger.rates


def rate(num_batches: int, *seconds: float) -> Any:
    return pytest.approx(num_batches * BATCH_TOKENS / sum(seconds), rel=1e-6)


def test_tokens_of_each_step(tmp_path: Path, clock: Clock) -> None:
    rates = fit(tmp_path, clock, 3)
    assert rates == {1: rate(1, 1), 2: rate(1, 2), 3: rate(1, 3)}


def test_steps_since_the_last_logged_one(tmp_path: Path, clock: Clock) -> None:
    rates = fit(tmp_path, clock, 7, log_every_n_steps=3)
    assert rates == {3: rate(3, 1, 2, 3), 6: rate(3, 4, 5, 6)}


def test_every_micro_batch_counts(tmp_path: Path, clock: Clock) -> None:
    rates = fit(tmp_path, clock, 4, accumulate_grad_batches=3, log_every_n_steps=2)
    assert rates == {2: rate(6, *range(1, 7)), 4: rate(6, *range(7, 13))}


def test_waiting_for_data_counts(tmp_path: Path, clock: Clock) -> None:
    def wait() -> None:
        clock.now += 10

    # The loader is one batch ahead, and the first two come before the clock is started.
    rates = fit(tmp_path, clock, 4, wait=wait, log_every_n_steps=2)
    assert rates == {2: rate(2, 1, 2, 10), 4: rate(2, 3, 4, 10, 10)}


def test_validation_does_not_count(tmp_path: Path, clock: Clock) -> None:
    rates = fit(tmp_path, clock, 6, val_batches=2, val_check_interval=2, log_every_n_steps=3)
    assert clock.now > 6 * LONG
    assert rates == {3: rate(3, 1, 2, 3), 6: rate(3, 4, 5, 6)}


def test_time_between_epochs_does_not_count(tmp_path: Path, clock: Clock) -> None:
    rates = fit(tmp_path, clock, 6, num_batches=2, log_every_n_steps=3)
    assert clock.now > 3 * LONG
    assert rates == {3: rate(3, 1, 2, 3), 6: rate(3, 4, 5, 6)}


def test_saving_does_not_count(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowDisk(LastCheckpoint):
        def save(self, trainer: Trainer) -> None:
            super().save(trainer)
            clock.now += LONG

    saving = (SlowDisk(tmp_path, every_n_steps=2),)
    rates = fit(tmp_path, clock, 6, callbacks=saving, enable_checkpointing=True)
    assert clock.now > 4 * LONG
    assert rates == {step: rate(1, step) for step in range(1, 7)}


def test_the_sanity_check_does_not_count(tmp_path: Path, clock: Clock) -> None:
    rates = fit(tmp_path, clock, 2, val_batches=2, num_sanity_val_steps=2)
    assert rates == {1: rate(1, 1), 2: rate(1, 2)}


def test_tokens_of_all_ranks_count(clock: Clock) -> None:
    logged: dict[str, float] = {}
    module: Any = SimpleNamespace(log=logged.__setitem__)
    trainer: Any = SimpleNamespace(
        distributed_sampler_kwargs={"rank": 1, "num_replicas": 4},
        accumulate_grad_batches=1,
        global_step=1,
        log_every_n_steps=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    callback, batch = Throughput(), {"input_ids": torch.zeros(2, 8)}
    callback.on_train_batch_start(trainer, module, batch, 0)
    clock.now += 2
    callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert logged[NAME] == 4 * BATCH_TOKENS / 2
    assert logged["train/step_seconds"] == 2
    assert "train/mfu" not in logged  # of a module that nobody knows


def test_share_of_data_and_utilisation(tmp_path: Path, clock: Clock) -> None:
    def wait() -> None:
        clock.now += 10

    logger, peak = RecordLogger(), 1e6
    trainer = make_trainer(
        tmp_path,
        4,
        logger=logger,
        callbacks=[TakeTime(clock), Throughput(peak)],
        log_every_n_steps=2,
    )
    trainer.fit(make_task(CONFIG), Batches(100, wait))
    first, second = logger.rows
    assert first["train/data_share"] == pytest.approx(10 / 13)
    assert second["train/data_share"] == pytest.approx(20 / 27)
    assert second["train/step_seconds"] == pytest.approx(27 / 2)
    flops = training_flops_per_token(CONFIG, 8)
    assert second["train/mfu"] == pytest.approx(2 * BATCH_TOKENS / 27 * flops / peak)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak_bytes / 2 < second["train/peak_memory_bytes"] <= peak_bytes
    trainer.fit(make_task(CONFIG), Batches(100))  # listens once, however often it is used


def test_rows_that_are_cut_count_as_short_ones(tmp_path: Path, clock: Clock) -> None:
    logger, peak = RecordLogger(), 1e6
    trainer = make_trainer(
        tmp_path, 3, logger=logger, callbacks=[TakeTime(clock), Throughput(peak)]
    )
    trainer.fit(make_task(CONFIG, window_warmup=WindowWarmup(2, steps=2)), Batches(100))
    utilisation = [row["train/mfu"] for row in logger.rows]
    flops = [training_flops_per_token(CONFIG, length) for length in (2, 4, 8)]
    expected = [BATCH_TOKENS / (step + 1) * flops[step] / peak for step in range(3)]
    assert utilisation == pytest.approx(expected)


def test_a_head_that_is_not_used_costs_nothing(tmp_path: Path, clock: Clock) -> None:
    logger, task = RecordLogger(), make_task(CONFIG)
    task.predicts_tokens = False
    trainer = make_trainer(tmp_path, 1, logger=logger, callbacks=[TakeTime(clock), Throughput(1e6)])
    trainer.fit(task, Batches(100))
    flops = training_flops_per_token(CONFIG, 8) - 6 * CONFIG.embed_dim * CONFIG.padded_vocab_size
    assert logger.rows[0]["train/mfu"] == pytest.approx(BATCH_TOKENS * flops / 1e6)


def test_peak_is_that_of_the_device_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_of(gpu, "bf16-mixed") == (989.4e12, "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H20")
    assert peak_of(gpu, "bf16-mixed") == (None, "NVIDIA H20")
    assert peak_of(torch.device("mps"), "bf16-mixed") == (None, "mps")
    peak, name = peak_of(torch.device("cpu"), "32-true")
    assert name == "this processor"
    assert peak is not None
    assert 1e8 < peak < 1e14


def test_wrong_peak() -> None:
    with pytest.raises(InputError, match="Throughput: peak_flops=0 must be above 0"):
        Throughput(0)

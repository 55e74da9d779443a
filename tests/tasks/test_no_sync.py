"""A step that is not logged never asks a tensor for its number, which would wait for a GPU."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from lit_gpt_kit import LanguageModeling, TextDataModule, Throughput
from lit_gpt_kit.cli.progress import ProgressLines, StepBar
from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from tests.tiny import make_task, make_trainer

EVERY, STEPS = 5, 15


class OnHost(torch.Tensor):
    """What `cpu()` returned: to read it waits for no device."""


class Questions(TorchDispatchMode):
    """Notes who asks for a number (`item()`, `float()`, `bool()`), and in which step."""

    def __init__(self, task: LanguageModeling) -> None:
        super().__init__()
        self.task = task
        self.asked: dict[int, list[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = func is torch.ops.aten._local_scalar_dense.default
        if reads and not isinstance(args[0], OnHost):
            calls = traceback.extract_stack()[:-1]
            # On a CPU a factor of 1 is looked for, which costs nothing there and saves a pass.
            if not any(call.name == "_scale_gradients" for call in calls):
                place = " < ".join(f"{call.name}:{call.lineno}" for call in calls[:-8:-1])
                self.asked.setdefault(self.task.global_step, []).append(place)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bar", [ProgressLines, StepBar])
def test_nobody_asks_between_logged_steps(
    bar: Callable[[], Callback],
    make_data: Callable[..., TextDataModule],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self.clone().as_subclass(OnHost))
    task = make_task()
    trainer = make_trainer(
        tmp_path,
        STEPS,
        callbacks=[Throughput(), bar()],
        logger=MetricsCSV(tmp_path),
        log_every_n_steps=EVERY,
        gradient_clip_val=1.0,
        accumulate_grad_batches=2,
        enable_progress_bar=True,
        limit_val_batches=0,
    )
    with Questions(task) as questions:
        trainer.fit(task, make_data())
    assert trainer.global_step == STEPS
    # A step is logged while it is counted, or just after.
    quiet = {
        step: places
        for step, places in questions.asked.items()
        if 0 < step < STEPS and step % EVERY not in (0, EVERY - 1)
    }
    assert not quiet
    assert any(step % EVERY in (0, EVERY - 1) for step in questions.asked)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for(make_data: Callable[..., TextDataModule], tmp_path: Path) -> None:
    class Strict(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            is_quiet = trainer.global_step % EVERY in range(1, EVERY - 1)
            torch.cuda.set_sync_debug_mode("error" if is_quiet else "default")

        def teardown(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    task = make_task()
    callbacks = [Throughput(), ProgressLines(), Strict()]
    trainer = make_trainer(
        tmp_path,
        STEPS,
        accelerator="gpu",
        devices=1,
        callbacks=callbacks,
        logger=MetricsCSV(tmp_path),
        log_every_n_steps=EVERY,
        gradient_clip_val=1.0,
        enable_progress_bar=True,
        limit_val_batches=0,
    )
    trainer.fit(task, make_data())
    assert trainer.global_step == STEPS

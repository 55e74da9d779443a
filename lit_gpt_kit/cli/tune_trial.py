"""A trial of a micro-batch: a few steps, ended as soon as they take more memory than allowed."""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.memory import is_oom_error

from lit_gpt_kit.cli.main import WRONG_INPUT
from lit_gpt_kit.cli.quiet import quieten_libraries
from lit_gpt_kit.cli.train import TrainingCLI
from lit_gpt_kit.cli.tune import NO_TRAINING
from lit_gpt_kit.cli.tune_batch import TOO_MUCH, restrict_to_one_device
from lit_gpt_kit.errors import InputError

NUM_STEPS = 3
"""The first makes the optimiser's state; the last is timed."""
SECONDS_BETWEEN_LOOKS = 0.02


def main() -> None:
    """Try `BATCH_SIZE LIMIT_BYTES [arguments of fit]`; prints what was measured as JSON."""
    batch_size, limit, *arguments = sys.argv[1:]
    quieten_libraries()
    trial = TrialCLI(int(batch_size), int(limit), arguments)
    try:
        trial.try_it()
    except InputError as error:
        print(f"lit-gpt: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or is_oom_error(error):
            sys.exit(TOO_MUCH)
        raise
    print(json.dumps(trial.clock.measured()))


class Clock(Callback):
    """Times the last step and reads the peak of memory."""

    def __init__(self) -> None:
        self._started = self.seconds = 0.0
        self._tokens = self._rows = 0
        self._device = torch.device("cpu")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._device = pl_module.device
        self._wait()
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop the clock."""
        self._wait()
        self.seconds = time.perf_counter() - self._started
        self._rows, self._tokens = len(batch["input_ids"]), batch["input_ids"].numel()

    def measured(self) -> dict[str, float]:
        """What a Trial keeps."""
        on_gpu = self._device.type == "cuda"
        return {
            "peak_bytes": torch.cuda.max_memory_reserved(self._device) if on_gpu else peak_bytes(),
            "rows_per_second": self._rows / self.seconds,
            "tokens_per_second": self._tokens / self.seconds,
            "seconds": self.seconds,
        }

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class TrialCLI(TrainingCLI):
    """`fit` of one micro-batch a step, without files and without a word.

    Args:
        batch_size: rows at once.
        limit: bytes that may be used; 0 is all there are.
        arguments: those of `fit`.
    """

    def __init__(self, batch_size: int, limit: int, arguments: list[str]) -> None:
        self.batch_size, self.limit = batch_size, limit
        self.clock = Clock()
        super().__init__("fit", arguments)

    def before_instantiate_classes(self) -> None:
        """No run folder, one micro-batch a step."""
        settings = self.config[self.command]
        more = {"max_steps": NUM_STEPS, "accumulate_grad_batches": 1, "enable_progress_bar": False}
        for name, value in {**NO_TRAINING, **more}.items():
            settings.trainer[name] = value
        restrict_to_one_device(settings)
        self._needs_pretrained = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer with a clock."""
        return LightningCLI.instantiate_trainer(self, callbacks=[self.clock], **kwargs)

    def _forget_run_folder(self) -> None:
        """There is none."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Wait for `try_it`."""

    def try_it(self) -> None:
        """Train the longest rows for a few steps."""
        data: Any = self.datamodule
        data.batch_size, data.global_batch = self.batch_size, None
        data.batch_warmup = None  # its first steps would read fewer rows than are tried
        load = data.train_dataloader
        data.train_dataloader = lambda: longest_rows(load(), self.batch_size)
        if self.limit and self.trainer.strategy.root_device.type == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total))
        elif self.limit:
            threading.Thread(target=end_above, args=(self.limit,), daemon=True).start()
        self.trainer.fit(self.model, datamodule=data)


class Repeated:
    """A batch, as often as it is asked for."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return NUM_STEPS

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(NUM_STEPS):
            yield dict(self.batch)


def longest_rows(loader: Any, batch_size: int) -> Any:
    """The batch that takes most memory, where rows differ in length; else the loader itself."""
    lengths = getattr(loader, "lengths", None)
    if lengths is None:
        return loader
    rows = np.argsort(-lengths, kind="stable")
    return Repeated(loader.collate(np.resize(rows, batch_size)))


def end_above(limit: int) -> None:
    """End the process once it has taken more memory, before the machine runs out of it."""
    while True:
        if peak_bytes() > limit:
            os._exit(TOO_MUCH)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def peak_bytes() -> int:
    """The most memory this process has held."""
    try:
        # getrusage's number includes what the parent held when it forked.
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

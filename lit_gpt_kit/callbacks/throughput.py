"""Throughput: how fast training is, how much of the device it uses, and what it waits for."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_gpt_kit.devices import device_of_driver, measure_peak
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.flops import training_flops_per_token
from lit_gpt_kit.ranks import data_share
from lit_gpt_kit.steps import step_is_done, step_is_logged

FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""What Lightning's profiler calls the fetching of a batch."""


class Throughput(Callback):
    """Logs how fast the steps since the last logged one were; never waits for the device to do so.

    `train/tokens_per_second`, counting the `input_ids` of each batch on every rank;
    `train/step_seconds`; `train/data_share`, the share of the time spent waiting for data;
    `train/peak_memory_bytes`, of the device, or of the process on a CPU; and, for tasks with a
    `GPTConfig` in `gpt`, `train/mfu`: the arithmetic of the network (`training_flops_per_token`,
    the same that `lit-gpt plan` counts) as a share of the dense peak of the devices in use. For a
    device whose peak is not known there is no figure. A module that cuts rows says by
    `row_length(num_tokens)` how long they then are, and one that leaves the network's head alone by
    `predicts_tokens = False` that it does. Time spent in validation, sampling and saving
    does not count.

    Attributes:
        peak_name: what the peak is, for people: "989 TFLOP/s of NVIDIA H200".
        tokens_per_second: what was logged last; None before that.

    Args:
        peak_flops: of one device, in floating-point operations a second; by default that of the
            device in use, from its maker's data sheet, or measured where it is a CPU.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        if peak_flops is not None and not peak_flops > 0:
            raise InputError(f"Throughput: peak_flops={peak_flops} must be above 0")
        self.peak_flops = peak_flops
        self.peak_name = ""
        self.tokens_per_second: float | None = None
        self._peak: float | None = None
        self._tokens = 0
        self._row_length = self._row_tokens = 0
        self._steps = 0
        self._seconds = self._waited = 0.0
        self._started = self._fetch_started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the fetching of batches, which Lightning times under a name."""
        if stage != "fit":
            return
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]  # a connector's
        start, stop = profiler.start, profiler.stop

        def start_fetch(action_name: str) -> None:
            if action_name == FETCH:
                self._fetch_started = time.perf_counter()
            start(action_name)

        def stop_fetch(action_name: str) -> None:
            stop(action_name)
            if action_name == FETCH and self._started:
                self._waited += time.perf_counter() - self._fetch_started

        profiler.start, profiler.stop = start_fetch, stop_fetch

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        if stage == "fit":
            profiler: Any = trainer.profiler  # type: ignore[attr-defined]
            for name in ("start", "stop"):  # those of the class are there again
                vars(profiler).pop(name, None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what the device can do."""
        if not isinstance(getattr(pl_module, "gpt", None), GPTConfig):
            return
        precision = str(trainer.precision)
        if self.peak_flops is not None:
            self._peak, name = self.peak_flops, "each device, as configured"
        else:
            self._peak, name = peak_of(trainer.strategy.root_device, precision)
        if self._peak is not None:
            self.peak_name = f"{self._peak / 1e12:.3g} TFLOP/s of {name}"

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock where the pause since the last batch was not training."""
        if isinstance(batch, dict) and "input_ids" in batch:
            length = batch["input_ids"].shape[-1]
            cut: Any = getattr(pl_module, "row_length", None)
            self._row_length = length if cut is None else cut(length)
        if not self._started:
            self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch; log at the steps that the Trainer logs, the last one among them."""
        if not isinstance(batch, dict) or "input_ids" not in batch:
            return  # somebody's own kind of batch: no figure rather than a wrong one
        tokens = batch["input_ids"].numel() * data_share(trainer)[1]
        self._tokens += tokens
        self._row_tokens += tokens * self._row_length
        if not step_is_done(trainer, batch_idx):
            return
        self._steps += 1
        if step_is_logged(trainer, trainer.global_step) or trainer.should_stop:
            self._stop_clock()
            self._log(trainer, pl_module)
            self._tokens = self._row_tokens = self._steps = 0
            self._seconds = self._waited = 0.0
            self._started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop the clock."""
        self._stop_clock()

    def _log(self, trainer: Trainer, module: Any) -> None:
        rate = self.tokens_per_second = self._tokens / self._seconds
        module.log("train/tokens_per_second", rate)
        module.log("train/step_seconds", self._seconds / self._steps)
        module.log("train/data_share", self._waited / self._seconds)
        module.log("train/peak_memory_bytes", peak_memory(trainer.strategy.root_device))
        if self._peak is not None:
            has_frozen = getattr(module, "adapters", None) is not None
            num_tokens = self._row_tokens // self._tokens  # of a row, by tokens
            has_head = getattr(module, "predicts_tokens", True)
            flops = training_flops_per_token(module.gpt, num_tokens, has_frozen, has_head)
            module.log("train/mfu", rate * flops / (self._peak * trainer.world_size))

    def _stop_clock(self) -> None:
        if self._started:
            self._seconds += time.perf_counter() - self._started
            self._started = 0.0


def peak_of(device: torch.device, precision: str) -> tuple[float | None, str]:
    """The dense peak of a device in one of the Trainer's precisions, and the device's name."""
    if device.type == "cpu":
        dtype = "bfloat16" if precision.startswith("bf16") else "float32"
        known = precision.startswith(("bf16", "32"))
        return (measure_peak(dtype, torch.get_num_threads()) if known else None), "this processor"
    if device.type != "cuda":
        return None, device.type
    name = torch.cuda.get_device_name(device)
    found = device_of_driver(name)
    return (None if found is None else found.peak(precision)), name


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use so far, in bytes; on a CPU, by the whole process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)

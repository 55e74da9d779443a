"""Throughput: how many tokens a second training takes in."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_gpt_kit.ranks import data_share
from lit_gpt_kit.steps import step_is_done, step_is_logged


class Throughput(Callback):
    """Logs `train/tokens_per_second`, over the steps since the last logged one.

    Counts the `input_ids` of each batch on every rank. Time spent in validation, sampling and
    saving does not count. Never makes the host wait for the device.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._started = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock where the pause since the last batch was not training."""
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
        """Count the batch; log at the steps that the Trainer logs."""
        if not isinstance(batch, dict) or "input_ids" not in batch:
            return  # somebody's own kind of batch: no figure rather than a wrong one
        self._tokens += batch["input_ids"].numel() * data_share(trainer)[1]
        if step_is_done(trainer, batch_idx) and step_is_logged(trainer, trainer.global_step):
            self._stop_clock()
            pl_module.log("train/tokens_per_second", self._tokens / self._seconds)
            self._tokens, self._seconds = 0, 0.0
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

    def _stop_clock(self) -> None:
        if self._started:
            self._seconds += time.perf_counter() - self._started
            self._started = 0.0

"""ExactStep: the loss of an optimiser step, whatever micro-batches and ranks it is spread over."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lit_gpt_kit.checkpoints.native import BEST_FILE, LAST_FILE, PREVIOUS_FILE
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.optim.schedules import WarmupSchedule
from lit_gpt_kit.ranks import data_share, reduce_over_ranks
from lit_gpt_kit.steps import step_is_done, step_is_logged
from lit_gpt_kit.tasks.bad_steps import BadSteps, has_own_scaling
from lit_gpt_kit.tasks.trainer_settings import check_trainer

BEFORE_BAD_STEPS = Path("checkpoints", "before-bad-steps.ckpt")
"""Where the weights are kept that a run had when it stopped for bad steps, in the run folder."""
EARLIER = (BEST_FILE, LAST_FILE, PREVIOUS_FILE)
"""What may lie beside it from a time when the weights were good."""


class ExactStep(LightningModule):
    """A LightningModule whose steps have the loss of their whole global batch.

    The loss of an optimiser step is the sum over its targets divided by their number, over all
    micro-batches and all ranks, so that neither accumulation nor the number of devices nor uneven
    masking changes it. Every random number of a step (dropout) follows from the seed and the step,
    so that a run continued from a checkpoint is the run that never stopped.

    A step whose loss or gradient is not finite changes neither weights nor optimiser. It counts all
    the same: which rows make a step follows from its number.

    Attributes:
        max_bad_steps: after so many steps in a row that are not finite training stops; 0 is never.
        step_loss: the loss of the last step, a scalar on the device; None before the first.
        step_gradient_norm: the norm of its gradient before clipping, likewise.
        step_is_taken: whether it changes anything, likewise.
    """

    max_bad_steps = 10

    def __init__(self) -> None:
        super().__init__()
        self.bad_steps = BadSteps()
        self.step_loss: Tensor | None = None
        self.step_gradient_norm: Tensor | None = None
        self.step_is_taken: Tensor | None = None
        self.num_tokens_seen = 0
        self._step_nll: Tensor | None = None
        self._step_targets: Tensor | None = None
        self._step_tokens = self._last_step_tokens = 0
        self._step_lr: Any = 0.0
        self._clock = 0.0
        self._seed = 0

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The summed loss of a batch, in nats, and the number of targets it is summed over."""
        raise NotImplementedError(f"{type(self).__name__} does not define compute_loss")

    @property
    def expected_targets(self) -> int:
        """What a micro-batch's loss is divided by before the step's true number is known.

        Any constant would do, since the gradient is corrected; one near the true number keeps
        half precision in its range.
        """
        return int(getattr(self.trainer.datamodule, "batch_size", 1))  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Check what the Trainer was told.

        Raises:
            InputError: it would train on other rows, or otherwise, than it says.
        """
        if stage == "fit":
            check_trainer(self.trainer)

    def on_fit_start(self) -> None:
        """Take the run's seed."""
        self._seed = torch.initial_seed()

    def on_train_start(self) -> None:
        """Start the clock; a run that was over when it was saved stays so."""
        self._clock = time.monotonic()
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        if any(isinstance(s, WarmupSchedule) and s.is_over for s in schedules):
            self.trainer.should_stop = True

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Have loggers count the steps that were taken.

        Their count is Lightning's own and, after a run that was saved in validation, one behind.
        """
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step

    @contextmanager
    def _random_numbers_of_step(self, batch_idx: int) -> Iterator[None]:
        """Make random numbers a function of seed, step, micro-batch and rows, within the body.

        Ranks that share a copy of the model have the same rows, and drop the same activations.
        """
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        place = (self._seed, self.trainer.global_step, micro_batch, data_share(self.trainer)[0])
        outer = torch.get_rng_state()
        torch.manual_seed(hash(place) & (2**63 - 1))
        try:
            yield
        finally:
            torch.set_rng_state(outer)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The micro-batch's share of the step's loss."""
        with self._random_numbers_of_step(batch_idx):
            nll, num_targets = self.compute_loss(batch)
        self._step_tokens += batch["input_ids"].numel()
        if self._step_nll is None or self._step_targets is None:
            self._step_nll, self._step_targets = nll.detach(), num_targets
        else:
            self._step_nll = self._step_nll + nll.detach()
            self._step_targets = self._step_targets + num_targets
        return nll / self.expected_targets

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divide the gradient by the step's targets; until now it was by the expected number."""
        if self._step_nll is None or self._step_targets is None:
            return  # a subclass has a training step of its own
        sums = torch.stack([self._step_nll.double(), self._step_targets.double()])
        self._step_nll = self._step_targets = None
        # Lightning divided by the micro-batches, the strategy by the ranks.
        expected = self.expected_targets * self.trainer.accumulate_grad_batches
        if self.trainer.world_size > 1:
            # Ranks with the same rows count them more than once, above and below the line.
            sums = reduce_over_ranks(self.trainer, sums, "sum")
            expected *= self.trainer.world_size
        nll, num_targets = sums
        # Nothing to learn from (labels that weigh nothing) is a gradient of zero, not 0 / 0.
        num_targets = num_targets.where(num_targets > 0, 1.0)
        self._scale_gradients(optimizer, expected / num_targets)
        self.step_loss = nll / num_targets
        self._last_step_tokens = self._step_tokens * data_share(self.trainer)[1]
        self.num_tokens_seen += self._last_step_tokens
        self._step_tokens = 0

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer asks, and log the step.

        Lightning's own clipping refuses a fused optimiser under every mixed precision. bf16 needs
        no unscaling; and after float16's, torch's scaler has a fused optimiser leave it out.
        """
        step = self.trainer.global_step + 1
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and has_own_scaling(optimizer):
            scaler.unscale_(optimizer)  # of others, Lightning has done so
        by_norm = gradient_clip_algorithm in (None, "norm")
        norm = self.step_gradient_norm = _whole(torch.nn.utils.get_total_norm(gradients))
        if gradient_clip_val and not by_norm:
            torch.nn.utils.clip_grad_value_(parameters, float(gradient_clip_val))
        elif gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, float(gradient_clip_val), norm)
        if scaler is not None:  # which passes over steps itself, while it looks for its scale
            self.step_is_taken = norm.isfinite()
        else:
            self.step_is_taken = self.bad_steps.check(optimizer, step, self.step_loss, norm)
        self._step_lr = optimizer.param_groups[0]["lr"]
        if step_is_logged(self.trainer, step):
            self._log_step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log a last step between two that are logged; stop after too many bad steps in a row.

        Raises:
            InputError: there were too many; names the rows of the last one, and where the weights
                are saved that none of them has changed.
        """
        is_done = step_is_done(self.trainer, batch_idx)
        if self.trainer.should_stop and not is_done:
            # A validation that follows belongs to the last step that was taken; loggers add one.
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step - 1
        elif self.trainer.should_stop and self.step_gradient_norm is not None:
            # Lightning logs such a step whatever its number is, with what was logged before.
            self._log_step()
        too_many = 0 < self.max_bad_steps <= self.bad_steps.num_in_a_row
        if too_many and is_done:
            # Ranks that named the run folder after the time may have named two.
            folder = self.trainer.strategy.broadcast(Path(self.trainer.default_root_dir))
            path = folder / BEFORE_BAD_STEPS
            complaint = self._describe_bad_steps(path)
            self.bad_steps.num_in_a_row = self.bad_steps.num_losses = (
                0  # who goes on from there has mended something
            )
            self.trainer.save_checkpoint(path)
            raise InputError(complaint)

    def on_train_end(self) -> None:
        """Say so if the last step was a bad one."""
        self.bad_steps.read()

    def _describe_bad_steps(self, path: Path) -> str:
        last, count = self.bad_steps.last, self.bad_steps.num_in_a_row
        assert last is not None
        describe: Any = getattr(self.trainer.datamodule, "describe_rows_of_step", None)  # type: ignore[attr-defined]
        rows = "" if describe is None else f", {describe(last.number - 1)}"
        complaint = (
            f"{count} steps in a row were not finite (step {last.number}: {last.complaint}{rows}); "
        )
        mend = "lower the learning rate, clip (trainer.gradient_clip_val), or mend the rows"
        if not self.bad_steps.weights_are_the_cause:
            return f"{complaint}{path} holds the weights from before them: {mend}"
        earlier = [str(file) for file in map(path.with_name, EARLIER) if file.exists()]
        start = f"go on from {' or '.join(earlier)}" if earlier else "start anew"
        return (
            f"{complaint}no loss was, on any rows, so that most likely the weights were ruined "
            f"before; {path} holds those: {start}, and {mend}"
        )

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Tell our schedules how far the run has come; one that is over ends it."""
        if isinstance(scheduler, WarmupSchedule):
            scheduler.advance(self._last_step_tokens, self._seconds_of_step(scheduler.unit))
            if scheduler.is_over:
                self.trainer.should_stop = True
        super().lr_scheduler_step(scheduler, metric)

    def _seconds_of_step(self, unit: str) -> float:
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        if unit == "seconds" and self.trainer.world_size > 1:
            # Clocks differ, and ranks with rates of their own would drift apart.
            mean = self.trainer.strategy.reduce(
                torch.tensor(seconds, dtype=torch.float64, device=self.device), reduce_op="mean"
            )
            seconds = float(mean)
        return seconds

    def _log_step(self) -> None:
        self.log("train/lr", float(self._step_lr))
        assert self.step_gradient_norm is not None
        self.log("train/grad_norm", self.step_gradient_norm)
        if self.step_loss is not None:
            # Lightning reads what it shows at every batch, so it must not lie on a GPU.
            self.log("train/loss", self.step_loss.cpu(), prog_bar=True)
            self.log("train/tokens", float(self.num_tokens_seen))

    def _scale_gradients(self, optimizer: Optimizer, factor: Tensor) -> None:
        if factor.device.type == "cpu" and factor == 1:
            return  # elsewhere asking would make the host wait for the device
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def _whole(norm: Tensor) -> Tensor:
    """A norm over sharded gradients (DTensor) as a plain tensor."""
    full: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return full

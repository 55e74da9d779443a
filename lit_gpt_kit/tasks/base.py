"""Task: what every way of training a GPT has in common."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_gpt_kit.checkpoints.native import describe_into, only_primitives, read_description
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.optim.groups import decay_groups, keep_configured_values
from lit_gpt_kit.optim.schedules import WarmupSchedule
from lit_gpt_kit.steps import step_is_logged
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


class Task(LightningModule):
    """A GPT and how it is trained; a subclass says what the loss is.

    The loss of an optimiser step is the sum over its targets divided by their number, over all
    micro-batches and all ranks, so that neither accumulation nor the number of devices nor uneven
    masking changes it. Every random number of a step (dropout) follows from the seed and the step,
    so that a run continued from a checkpoint is the run that never stopped.

    Hooks for subclasses: `compute_loss`, `build_model`, and Lightning's own, `configure_optimizers`
    above all. A subclass that overrides `training_step` or `on_before_optimizer_step` without
    calling them takes the loss of its steps, and its logging, into its own hands.

    Attributes:
        monitor: the metric that makes a checkpoint the best; `monitor_mode` says which way.

    Args:
        gpt: the network.
        optimizer: makes the optimiser from parameter groups.
        lr_schedule: makes the learning-rate schedule from the optimiser; constant by default.
    """

    monitor = "val/loss"
    monitor_mode = "min"

    def __init__(
        self,
        gpt: GPTConfig,
        optimizer: OptimizerFactory,
        lr_schedule: ScheduleFactory | None = None,
    ) -> None:
        super().__init__()
        # A checkpoint keeps the configuration as primitives.
        self.gpt = gpt if isinstance(gpt, GPTConfig) else GPTConfig(**gpt)
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.model: GPT | None = None
        self.tokenizer: Tokenizer | None = None
        self.num_tokens_seen = 0
        self._step_nll: Tensor | None = None
        self._step_targets: Tensor | None = None
        self._step_tokens = 0
        self._step_loss: Tensor | None = None
        self._seed = 0

    # ---- what subclasses change ----

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The summed loss of a batch, in nats, and the number of targets it is summed over."""
        raise NotImplementedError(f"{type(self).__name__} does not define compute_loss")

    def build_model(self, config: GPTConfig) -> GPT:
        """The network, from a configuration whose vocabulary size is known."""
        return GPT(config)

    # ---- the network ----

    @property
    def network(self) -> GPT:
        """The network, once it is built."""
        assert self.model is not None, "the network is built by configure_model"
        return self.model

    @property
    def block_size(self) -> int:
        """Longest row of tokens; the data module cuts its rows to it."""
        return self.gpt.block_size

    def configure_model(self) -> None:
        """Build the network, when the data module has already said its vocabulary.

        Raises:
            InputError: nobody knows the vocabulary size, or configuration and tokenizer disagree.
        """
        if self.model is not None:
            return
        datamodule = getattr(self._trainer, "datamodule", None)
        if self.tokenizer is None:
            self.tokenizer = getattr(datamodule, "tokenizer", None)
        if self.tokenizer is not None:
            self.gpt = fit_to_tokenizer(self.gpt, self.tokenizer)
        elif self.gpt.vocab_size is None:
            raise InputError(
                "vocab_size is not known; set model.init_args.gpt.vocab_size, or train with a data "
                "module that has a tokenizer"
            )
        self.model = self.build_model(self.gpt)

    # ---- one step ----

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        """Lightning's, with the safe loading that our checkpoints are made for as the default."""
        kwargs.setdefault("weights_only", True)
        return super().load_from_checkpoint(*args, **kwargs)

    def on_fit_start(self) -> None:
        """Take the run's seed."""
        self._seed = torch.initial_seed()

    @contextmanager
    def _random_numbers_of_step(self, batch_idx: int) -> Iterator[None]:
        """Make random numbers a function of seed, step, micro-batch and rank, within the body."""
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        place = (self._seed, self.trainer.global_step, micro_batch, self.trainer.global_rank)
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
        return nll / self._expected_targets

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divide the gradient by the step's targets; until now it was by the expected number."""
        if self._step_nll is None or self._step_targets is None:
            return  # a subclass has a training step of its own
        sums = torch.stack([self._step_nll.double(), self._step_targets.double()])
        self._step_nll = self._step_targets = None
        # Lightning divided by the micro-batches, the strategy by the ranks.
        expected = self._expected_targets * self.trainer.accumulate_grad_batches
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
            expected *= self.trainer.world_size
        nll, num_targets = sums
        self._scale_gradients(optimizer, expected / num_targets)
        self._step_loss = nll / num_targets
        self.num_tokens_seen += self._step_tokens * self.trainer.world_size
        self._step_tokens = 0

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer asks, and log the step.

        Lightning's own clipping refuses a fused optimiser under every mixed precision; bf16 needs
        no unscaling, so there is nothing to refuse.
        """
        is_logged = step_is_logged(self.trainer, self.trainer.global_step + 1)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        needs_scaler = self.trainer.precision == "16-mixed"
        norm = None
        by_norm = gradient_clip_algorithm in (None, "norm")
        if is_logged or (gradient_clip_val and by_norm):
            norm = torch.nn.utils.get_total_norm(gradients)
        if gradient_clip_val and (needs_scaler or not by_norm):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, float(gradient_clip_val), norm)
        if is_logged:
            self._log_step(float(optimizer.param_groups[0]["lr"]), norm)

    def _log_step(self, lr: float, norm: Tensor | None) -> None:
        self.log("train/lr", lr)
        self.log("train/grad_norm", _whole(norm))
        if self._step_loss is not None:
            self.log("train/loss", self._step_loss, prog_bar=True)
            self.log("train/tokens", float(self.num_tokens_seen))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, decay on matrices alone, and the schedule, stepped every step."""
        optimizer = self.optimizer(decay_groups(self.named_parameters()))
        configured = [dict(group) for group in optimizer.param_groups]
        schedule = None if self.lr_schedule is None else self.lr_schedule(optimizer)
        scheduled = set() if schedule is None else {"lr"}
        if schedule is not None and not isinstance(schedule, WarmupSchedule):
            scheduled |= {"betas", "momentum"}  # torch's OneCycleLR moves these too
        optimizer.register_load_state_dict_pre_hook(
            partial(keep_configured_values, configured=configured, scheduled=scheduled)
        )
        if schedule is None:
            return optimizer
        total_steps = self.trainer.estimated_stepping_batches
        if hasattr(schedule, "set_total_steps") and total_steps != float("inf"):
            schedule.set_total_steps(int(total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained: network, tokenizer, format version."""
        describe_into(checkpoint, self.gpt, self.tokenizer)
        # A class's save_hyperparameters() may have put callables there, which cannot be loaded.
        kept = only_primitives(checkpoint.get("hyper_parameters", {}))
        checkpoint["hyper_parameters"] = {**kept, "gpt": asdict(self.gpt)}
        checkpoint["lit_gpt_kit"]["num_tokens_seen"] = self.num_tokens_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of the network and the tokenizer at hand.

        Raises:
            InputError: the run's network or tokenizer is not the checkpoint's; says what differs.
        """
        saved = read_description(checkpoint)
        self.num_tokens_seen = checkpoint["lit_gpt_kit"]["num_tokens_seen"]
        if self.tokenizer is None:
            self.tokenizer = saved.tokenizer
        different = [
            f"{field.name}={getattr(self.gpt, field.name)!r} "
            f"(checkpoint: {getattr(saved.config, field.name)!r})"
            for field in fields(GPTConfig)
            if getattr(self.gpt, field.name) != getattr(saved.config, field.name)
        ]
        if different:
            raise InputError(
                f"the checkpoint holds another network: {', '.join(different)}; use the "
                "configuration it was trained with"
            )
        ours, theirs = self.tokenizer, saved.tokenizer
        if ours is not None and theirs is not None and ours.fingerprint != theirs.fingerprint:
            raise InputError(
                "the checkpoint was trained with another tokenizer than the data's; use the same "
                "sources and tokenizer settings, or give that tokenizer's file"
            )

    # ---- details ----

    @property
    def _expected_targets(self) -> int:
        """What a micro-batch's loss is divided by before the step's true number is known.

        Any constant would do, since the gradient is corrected; this one is right as it is where
        every position is a target.
        """
        return self.block_size * int(getattr(self.trainer.datamodule, "batch_size", 1))  # type: ignore[attr-defined]

    def _scale_gradients(self, optimizer: Optimizer, factor: Tensor) -> None:
        if factor.device.type == "cpu" and factor == 1:
            return  # elsewhere asking would make the host wait for the device
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def fit_to_tokenizer(config: GPTConfig, tokenizer: Tokenizer) -> GPTConfig:
    """The configuration with vocabulary size and end token filled in.

    Raises:
        InputError: the vocabulary is too small for the tokenizer.
    """
    vocab_size = config.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"vocab_size={vocab_size} is smaller than the tokenizer's {tokenizer.vocab_size} "
            "tokens; leave vocab_size out, or use the tokenizer that belongs to the model"
        )
    end = config.end_token_id if config.end_token_id is not None else tokenizer.end_id
    return replace(config, vocab_size=vocab_size, end_token_id=end)


def _whole(norm: Tensor | None) -> Tensor:
    """A norm over sharded gradients (DTensor) as a plain tensor."""
    assert norm is not None
    full: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return full

"""Task: what every way of training a GPT has in common."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_gpt_kit.checkpoints.load import load_config, load_model, load_tokenizer
from lit_gpt_kit.checkpoints.native import Description
from lit_gpt_kit.checkpoints.on_demand import open_model
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.execution import ExecutionConfig, apply_execution, check_compiler
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import LoRAConfig
from lit_gpt_kit.optim.groups import decay_groups, freeze, keep_configured_values, scale_rates
from lit_gpt_kit.optim.schedules import WarmupSchedule
from lit_gpt_kit.parallel.deferred import Deferred
from lit_gpt_kit.parallel.layout import lay_out, sharding_options
from lit_gpt_kit.tasks.adapters import AdapterTraining
from lit_gpt_kit.tasks.matching import check_pretrained, fit_to_tokenizer
from lit_gpt_kit.tasks.self_contained import SelfContained
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


class Task(SelfContained):
    """A GPT and how it is trained; a subclass says what the loss is.

    The network is new, or starts from the weights of a pretrained model; with `lora` the weights
    stay as they are, and adapters beside them are trained and saved alone.

    Hooks for subclasses: `compute_loss`, `build_model`, `complete_model`, and Lightning's own,
    `configure_optimizers` above all. A subclass that overrides `training_step` or
    `on_before_optimizer_step` without calling them takes the loss of its steps, and its logging,
    into its own hands.

    Attributes:
        monitor: the metric that makes a checkpoint the best; `monitor_mode` says which way.

    Args:
        gpt: the network; with `pretrained`, only its `dropout` counts.
        optimizer: makes the optimiser from parameter groups.
        lr_schedule: makes the learning-rate schedule from the optimiser; constant by default.
        pretrained: the MODEL to start from: a Hugging Face folder or hub name, a .gguf, a run
            folder or a .ckpt.
        lora: train adapters of this kind instead of the weights.
        freeze: patterns of names of weights that stay as they are, such as `model.blocks.[0-3].*`.
        layer_lr_decay: the learning rate of each layer is that of the layer above times this.
        max_bad_steps: stop after so many steps in a row whose loss or gradient is not finite; 0 is
            never.
        execution: how the network is run in training: compiled, activations made twice.
    """

    monitor = "val/loss"
    monitor_mode = "min"
    predicts_tokens = True
    """The head of the network is used."""

    def __init__(
        self,
        gpt: GPTConfig = GPTConfig(),  # noqa: B008
        optimizer: OptimizerFactory = lambda params: torch.optim.AdamW(params, lr=3e-4, fused=True),
        lr_schedule: ScheduleFactory | None = None,
        pretrained: str | None = None,
        lora: LoRAConfig | None = None,
        freeze: Sequence[str] = (),
        layer_lr_decay: float = 1.0,
        max_bad_steps: int = 10,
        execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008
    ) -> None:
        super().__init__()
        if lora is not None and pretrained is None:
            raise InputError("lora adapts a model that is there; set pretrained, the model")
        if not 0.0 < layer_lr_decay <= 1.0:
            raise InputError(f"layer_lr_decay={layer_lr_decay} must be above 0 and at most 1")
        if max_bad_steps < 0:
            raise InputError(f"max_bad_steps={max_bad_steps} must be at least 0")
        # A checkpoint keeps the configuration as primitives.
        self.gpt = gpt if isinstance(gpt, GPTConfig) else GPTConfig(**gpt)
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.pretrained = pretrained
        self.adapters = None if lora is None else AdapterTraining(lora, str(pretrained))
        self.freeze_patterns = tuple(freeze)
        self.layer_lr_decay = layer_lr_decay
        self.max_bad_steps = max_bad_steps
        self.execution = execution
        self.model: GPT | None = None
        self.tokenizer: Tokenizer | None = None
        self._pretrained_model: GPT | None = None
        self._fill: Callable[[str, Tensor], None] | None = None
        # What is not trained is not saved; what must be there, on_load_checkpoint checks.
        self.strict_loading = self.adapters is None

    # ---- what subclasses change ----

    def build_model(self, config: GPTConfig) -> GPT:
        """The network of a configuration whose vocabulary is known.

        Pretrained weights go into whatever network is returned, by name.
        """
        return self._pretrained_model or GPT(config)

    def suggest(self, run_dir: str) -> str:
        """The command to go on with after a run, its folder quoted for a shell."""
        return f"lit-gpt validate --config {run_dir}/config.yaml --ckpt_path {run_dir}"

    # ---- the network ----

    @property
    def block_size(self) -> int:
        """Longest row of tokens; the data module cuts its rows to it."""
        self._load_pretrained()
        return self.gpt.block_size

    def load_tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the pretrained model or the checkpoint; None where there is neither."""
        self._load_pretrained()
        return self.tokenizer

    def start_from(self, checkpoint: Description) -> None:
        """Know which checkpoint will be loaded.

        Where it holds all weights, nothing else need be there any more, neither the pretrained
        model nor what its tokenizer was trained on.
        """
        if checkpoint.adapter is not None or self.adapters is not None:
            return
        self.tokenizer = checkpoint.tokenizer
        if self.pretrained is not None:
            self.pretrained = None
            self.gpt = replace(checkpoint.config, dropout=self.gpt.dropout)

    def leave_weights_out(self) -> None:
        """Take of the pretrained model what the data must know of it, and never read its weights.

        For those who look at data alone: no network can be built then.
        """
        if self.pretrained is not None:
            config = load_config(self.pretrained)
            check_pretrained(self.gpt, config, self.pretrained)
            self.gpt, self.tokenizer = config, load_tokenizer(self.pretrained)
            self.pretrained = None

    def _load_pretrained(self) -> None:
        if self.pretrained is None or self._pretrained_model is not None or self.model is not None:
            return
        if self.adapters is not None:
            self.adapters.origin()  # now: its files may be others by the time something is saved
        if self._device_mesh is None:
            model, self.tokenizer = load_model(self.pretrained, without_head=True)
        else:  # no device need have room for all of it
            opened = open_model(self.pretrained)
            model, self.tokenizer, self._fill = opened.model, opened.tokenizer, opened.fill
        model.set_dropout(self.gpt.dropout)
        check_pretrained(self.gpt, model.config, self.pretrained)
        self._pretrained_model, self.gpt = model, model.config

    def configure_model(self) -> None:
        """Build the network, when the data module has already said its vocabulary.

        Where the strategy lays a model over devices, this lays it out.

        Raises:
            InputError: nobody knows the vocabulary size, configuration and tokenizer disagree, or
                the network cannot be laid out that way.
        """
        if self.model is not None:
            return
        mesh: DeviceMesh | None = self._device_mesh
        if mesh is None:
            self._build(None)
            return
        strategy = self.trainer.strategy
        deferred = Deferred(strategy.root_device)
        with deferred:
            self._build(deferred)
        lay_out(self, mesh, sharding_options(self.trainer), deferred.materialize)

    def complete_model(self) -> None:
        """Build what the task has beside the network, which is there now.

        A hook for subclasses: what is built here is laid over devices like the network.
        """

    def _build(self, deferred: Deferred | None) -> None:
        self._load_pretrained()
        self._take_tokenizer(getattr(self._trainer, "datamodule", None))
        if self.tokenizer is not None:
            self.gpt = fit_to_tokenizer(self.gpt, self.tokenizer)
        elif self.gpt.vocab_size is None:
            raise InputError(
                "vocab_size is not known; set model.init_args.gpt.vocab_size, or train with a data "
                "module that has a tokenizer"
            )
        model, loaded = self.build_model(self.gpt), self._pretrained_model
        fill = self._fill
        if loaded is not None and deferred is not None and fill is not None:
            for name, _ in loaded.named_parameters():
                deferred.fill_with(model.get_parameter(name), partial(fill, name))
        elif loaded is not None and model is not loaded:
            # A subclass built its own; what it added keeps the weights that it gave it.
            model.load_state_dict(loaded.state_dict(), strict=False)
        # A model that was loaded is in eval mode.
        self.model = model.train(self.training)
        self._pretrained_model = self._fill = None
        if self.adapters is not None:
            is_bf16 = self._trainer is not None and self._trainer.precision == "bf16-mixed"
            self.adapters.add_to(self.model, is_bf16)
        self.complete_model()
        if self.freeze_patterns:
            freeze(self, self.freeze_patterns)
        self._apply_execution()

    def _apply_execution(self) -> None:
        if self._is_fitting():
            if self.execution.compile:
                check_compiler(self.trainer.strategy.root_device)
            apply_execution(self.network, self.execution)

    def _is_fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == "fit"

    def _take_tokenizer(self, datamodule: Any) -> None:
        """The data's tokenizer: the model's own, perhaps with another chat template."""
        theirs: Tokenizer | None = getattr(datamodule, "tokenizer", None)
        if theirs is None:
            return
        ours = self.tokenizer
        if self.pretrained and ours is not None and ours.fingerprint != theirs.fingerprint:
            raise InputError(
                f"the data's tokenizer is not that of pretrained={self.pretrained}; leave "
                "data.init_args.tokenizer out, the model's is then used"
            )
        self.tokenizer = theirs

    # ---- optimiser ----

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, decay on matrices alone, and the schedule, stepped every step."""
        groups = decay_groups(self.named_parameters(), self.layer_lr_decay, self.gpt.num_layers)
        if not groups:
            raise InputError(f"freeze={list(self.freeze_patterns)} leaves nothing to train")
        optimizer = self.optimizer(groups)
        scale_rates(optimizer)
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
        if hasattr(schedule, "set_total_steps") and 0 < total_steps < float("inf"):
            schedule.set_total_steps(int(total_steps))
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]  # a connector's
        timers = [c for c in callbacks if isinstance(c, Timer)]  # what trainer.max_time adds
        if timers and isinstance(schedule, WarmupSchedule):
            elapsed, remaining = timers[0].time_elapsed(), timers[0].time_remaining()
            schedule.set_total_seconds(elapsed + (remaining or 0.0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

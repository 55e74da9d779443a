"""LanguageModeling: next-token training, for pretraining and fine-tuning alike."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.generation.generate import complete
from lit_gpt_kit.generation.sampling import SamplingConfig
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.execution import ExecutionConfig
from lit_gpt_kit.model.lora import LoRAConfig
from lit_gpt_kit.model.loss import IGNORE_INDEX, next_token_loss
from lit_gpt_kit.tasks.base import OptimizerFactory, ScheduleFactory, Task
from lit_gpt_kit.tasks.next_token_metrics import NextTokenMetrics
from lit_gpt_kit.tasks.window_warmup import WindowWarmup
from lit_gpt_kit.tokenization.chat_template import (
    Message,
    chat_end_ids,
    chat_stop_texts,
    encode_chat,
)


class LanguageModeling(Task):
    """A GPT that learns to guess the next token.

    Batches are dicts of `input_ids` (batch, seq), `targets` of the same shape, already shifted,
    with IGNORE_INDEX where no loss falls, and perhaps `document_ids`, and `target_positions`
    (targets,), where in the flattened batch loss falls.

    Logs `train/loss` (of the whole global batch), `train/lr`, `train/grad_norm`, `train/tokens`,
    and over the whole split `val/loss`, `val/perplexity`, `val/bits_per_byte`; `test/` likewise.

    Hooks for subclasses:
        build_model(config): the network.
        compute_loss(batch): the summed loss of a batch and the number of its targets.
        configure_optimizers(): optimiser and schedule, as in every LightningModule.
        generate(prompt), answer(conversations): text, for callbacks and for you.

    Args:
        gpt: the network; with `pretrained`, only its `dropout` counts.
        optimizer: any torch optimiser; it gets a group of parameters for each part (hidden
            matrices, embeddings, head, vectors), and its weight decay falls on matrices alone.
        lr_schedule: learning-rate schedule, stepped every optimiser step; constant by default.
        pretrained: the MODEL to start from: a Hugging Face folder or hub name, a .gguf, a run
            folder or a .ckpt.
        lora: train adapters of this kind instead of the weights.
        freeze: patterns of names of weights that stay as they are, such as `model.blocks.[0-3].*`.
        layer_lr_decay: the learning rate of each layer is that of the layer above times this.
        predict_top_k: how many likeliest next tokens `predict` returns.
        window_warmup: early steps of training cut their rows into shorter ones.
        max_bad_steps: stop after so many steps in a row whose loss or gradient is not finite; 0 is
            never.
        execution: how the network is run in training: compiled, activations made twice.
    """

    def __init__(
        self,
        gpt: GPTConfig = GPTConfig(),  # noqa: B008
        optimizer: OptimizerFactory = lambda params: torch.optim.AdamW(params, lr=3e-4, fused=True),
        lr_schedule: ScheduleFactory | None = None,
        pretrained: str | None = None,
        lora: LoRAConfig | None = None,
        freeze: Sequence[str] = (),
        layer_lr_decay: float = 1.0,
        predict_top_k: int = 5,
        window_warmup: WindowWarmup | None = None,
        max_bad_steps: int = 10,
        execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008
    ) -> None:
        super().__init__(
            gpt,
            optimizer,
            lr_schedule,
            pretrained,
            lora,
            freeze,
            layer_lr_decay,
            max_bad_steps,
            execution,
        )
        self.predict_top_k = predict_top_k
        self.window_warmup = window_warmup
        self.val_metrics = NextTokenMetrics()
        self.test_metrics = NextTokenMetrics()

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Logits (batch, seq, vocab) of the token that follows each position."""
        logits: Tensor = self.network(input_ids, document_ids)
        return logits

    def configure_model(self) -> None:
        """Build the network, once it is clear that rows may be cut as configured."""
        super().configure_model()
        if self.window_warmup is not None:
            data = getattr(self._trainer, "datamodule", None)
            self.window_warmup.window(0, getattr(data, "block_size", self.gpt.block_size))

    @property
    def expected_targets(self) -> int:
        """Every position of a full batch."""
        return self.block_size * super().expected_targets

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed nats and number of targets."""
        hidden = self.network.hidden_states(batch["input_ids"], batch.get("document_ids"))
        targets = batch["targets"]
        num_targets = (targets != IGNORE_INDEX).sum()
        if "target_positions" in batch:
            # Of a prompt nobody asks what follows: no logits of a vocabulary's size for nothing.
            # The data module counted them, so the host need not wait for the device.
            positions = batch["target_positions"]
            hidden, targets = (
                hidden.flatten(0, 1)[None, positions],
                targets.flatten()[None, positions],
            )
        nll = next_token_loss(hidden, self.network.lm_head, targets, self.execution.max_logits)
        return nll, num_targets

    def row_length(self, num_tokens: int) -> int:
        """How long the rows are in this step that the data module made so long."""
        if self.window_warmup is None:
            return num_tokens
        return self.window_warmup.window(self.trainer.global_step, num_tokens)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The micro-batch's share of the step's loss."""
        if self.window_warmup is not None:
            batch = self.window_warmup.cut(batch, self.trainer.global_step)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add the batch to the validation metrics."""
        self._update_metrics(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole split."""
        self._log_metrics("val", self.val_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add the batch to the test metrics."""
        self._update_metrics(self.test_metrics, batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole split."""
        self._log_metrics("test", self.test_metrics)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the network thought of each token of the batch.

        Returns:
            `log_probs` (batch, seq): log-probability of the token that follows, in nats, 0 where
            there is none; `top_ids` and `top_log_probs` (batch, seq, k): the likeliest next
            tokens, best first; the batch's `input_ids` and `targets`; and its `row`, where rows
            have numbers: those of conversations come in another order than the file's.
        """
        scores = self(batch["input_ids"], batch.get("document_ids")).float().log_softmax(-1)
        targets = batch["targets"]
        is_target = targets != IGNORE_INDEX
        chosen = scores.gather(-1, targets.where(is_target, 0).unsqueeze(-1)).squeeze(-1)
        top = scores.topk(min(self.predict_top_k, scores.shape[-1]), dim=-1)
        numbers = {"row": batch["row"]} if "row" in batch else {}
        return {
            **numbers,
            "input_ids": batch["input_ids"],
            "targets": targets,
            "log_probs": chosen.where(is_target, 0.0),
            "top_ids": top.indices,
            "top_log_probs": top.values,
        }

    def generate(self, prompt: str, max_new_tokens: int = 50, **sampling: Any) -> str:
        """The text that follows `prompt`.

        Args:
            prompt: what to continue.
            max_new_tokens: longest continuation, in tokens.
            sampling: the other fields of SamplingConfig.

        Raises:
            InputError: the prompt is longer than the block, or a sampling value is out of range.
        """
        assert self.tokenizer is not None, "generating text needs a tokenizer"
        config = SamplingConfig(max_new_tokens=max_new_tokens, **sampling)
        with self._writing():
            (continuation,) = complete(self.network, self.tokenizer, [prompt], config)
        return continuation.text

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int = 128,
        **sampling: Any,
    ) -> list[str]:
        """The assistant's next words in each conversation, all of them generated as one batch.

        Args:
            conversations: messages with `role` and `content`, laid out by the tokenizer's chat
                template; the answer ends where the template ends a turn.
            max_new_tokens: longest answer, in tokens.
            sampling: the other fields of SamplingConfig.

        Raises:
            InputError: a conversation is longer than the block, or the template refuses it.
        """
        assert self.tokenizer is not None, "generating text needs a tokenizer"
        prompts = [encode_chat(self.tokenizer, messages) for messages in conversations]
        stop = (*sampling.pop("stop", ()), *chat_stop_texts(self.tokenizer))
        config = SamplingConfig(max_new_tokens=max_new_tokens, stop=stop, **sampling)
        ends = chat_end_ids(self.tokenizer)
        with self._writing():
            answers = complete(self.network, self.tokenizer, prompts, config, ends)
        return [answer.text.strip() for answer in answers]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Generation's state of the module, within the body.

        Raises:
            InputError: the model is laid over devices.
        """
        if self._device_mesh is not None:
            # Whoever needs a token more than another rank would wait for it forever.
            raise InputError(
                "a model that is laid over devices writes no text in training; use its checkpoint "
                "(lit-gpt generate RUN_DIR), or train with configs/strategies/ddp.yaml"
            )
        was_training = self.training
        self.eval()
        # Each length of the text so far would be compiled anew.
        is_compiled = self.execution.compile
        stance = torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()
        try:
            with torch.no_grad(), stance:
                yield
        finally:
            self.train(was_training)

    @cached_property
    def _byte_lengths(self) -> Tensor:
        assert self.tokenizer is not None
        lengths = torch.zeros(self.network.lm_head.out_features, dtype=torch.int64)
        lengths[: self.tokenizer.vocab_size] = torch.tensor(self.tokenizer.byte_lengths())
        return lengths.to(self.device)

    def _update_metrics(self, metrics: NextTokenMetrics, batch: dict[str, Tensor]) -> None:
        nll, num_targets = self.compute_loss(batch)
        num_bytes = torch.zeros_like(num_targets)
        if self.tokenizer is not None:
            targets = batch["targets"]
            num_bytes = self._byte_lengths[targets[targets != IGNORE_INDEX]].sum()
        metrics.update(nll, num_targets, num_bytes)

    def _log_metrics(self, split: str, metrics: NextTokenMetrics) -> None:
        values = {f"{split}/{name}": value for name, value in metrics.compute().items()}
        metrics.reset()
        # Alike on all ranks already; without sync_dist Lightning doubts it, a line a metric.
        self.log(f"{split}/loss", values.pop(f"{split}/loss"), prog_bar=True, sync_dist=True)
        self.log_dict(values, sync_dist=True)

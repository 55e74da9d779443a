"""GenerationMetrics: what the model writes, measured by what it should have written."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from lit_gpt_kit.callbacks.generation_examples import (
    choose_examples,
    examples_of,
    pair_examples,
)
from lit_gpt_kit.callbacks.text_metrics import TEXT_METRICS
from lit_gpt_kit.data.examples import GenerationExample
from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.ranks import shares_model
from lit_gpt_kit.tokenization.chat_template import Message

COLUMNS = ("prompt", "reference", "answer")


class GenerationMetrics(Callback):
    """Lets the model answer examples at the end of a validation or a test, and scores the answers.

    Logs `val/rouge1`, `val/rouge2`, `val/rougeL`, `val/bleu`, `val/chrf`, `val/exact_match`,
    `val/token_f1` and `val/final_number`, as far as they are asked for, and `test/` likewise. What
    was asked, expected and answered goes to `generations/val_step000123.jsonl` in the run folder,
    a row a line, and to each W&B logger as a table. The examples are shared among the devices.

    Works with any LightningModule and LightningDataModule. It asks
    - the data module for `generation_examples(split: str) -> Sequence[GenerationExample]`, where
      split is "val" or "test", alike on all devices; or takes `prompts` and `references` instead;
    - the module for `answer(conversations, max_new_tokens=..., temperature=...) -> list[str]`,
      where a conversation is a list of `{"role": ..., "content": ...}`; or, where it has none, for
      `generate(prompt, max_new_tokens=...) -> str`, a call for each last message, with the
      temperature too if it takes one.

    Args:
        metrics: which to compute: rouge, bleu, chrf, exact_match, token_f1, final_number.
        max_examples: how many examples to answer, evenly spread over the split and the same ones
            each time; None answers all.
        max_new_tokens: longest answer, in tokens.
        batch_size: how many conversations a device answers at a time.
        temperature: 0 always takes the likeliest token.
        folder: where the files go; by default `generations` in the Trainer's default_root_dir.
        every_n_validations: in training, only at each n-th validation.
        prompts: what to ask, for both splits, where the data module has no examples.
        references: the good answer to each prompt, or several.

    Raises:
        InputError: a metric is not known, or prompts and references do not fit each other.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("rouge", "bleu", "chrf", "exact_match", "token_f1"),
        max_examples: int | None = 64,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        temperature: float = 0.0,
        folder: str | Path | None = None,
        every_n_validations: int = 1,
        prompts: Sequence[str] | None = None,
        references: Sequence[str | Sequence[str]] | None = None,
    ) -> None:
        for name in [metrics] if isinstance(metrics, str) else metrics:
            if name not in TEXT_METRICS:
                hint = did_you_mean(name, TEXT_METRICS)
                raise InputError(f"GenerationMetrics: there is no metric '{name}'{hint}")
        self.metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        counts = {
            "max_examples": max_examples,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "every_n_validations": every_n_validations,
        }
        for word, count in counts.items():
            if count is not None and count < 1:
                raise InputError(f"GenerationMetrics: {word}={count} must be at least 1")
        self.max_examples = max_examples
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.temperature = temperature
        self.folder = None if folder is None else Path(folder)
        self.every_n_validations = every_n_validations
        self.given = pair_examples(prompts, references)
        self._examples: list[GenerationExample] = []
        self._num_validations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the examples, so that what is amiss shows before hours of training.

        Raises:
            InputError: there are no examples, one has no reference, the module cannot answer, or no
                device holds the whole model.
        """
        split = {"fit": "val", "validate": "val", "test": "test"}.get(stage)
        if split is None:
            return
        if shares_model(trainer):
            # Ranks have unequal numbers of tokens to write, and each needs all of them for one.
            raise InputError(
                f"GenerationMetrics does not go with {type(trainer.strategy).__name__}, which lays "
                "one model over devices; leave it out, or train with configs/strategies/ddp.yaml"
            )
        if not (hasattr(pl_module, "answer") or hasattr(pl_module, "generate")):
            raise InputError(
                f"GenerationMetrics: {type(pl_module).__name__} can neither `answer` nor `generate`"
            )
        examples = self.given or examples_of(getattr(trainer, "datamodule", None), split)
        self._examples = choose_examples(examples, self.max_examples)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, at each n-th validation of a training and at every other one."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            self._num_validations += 1
            if self._num_validations % self.every_n_validations:
                return
        self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure."""
        self._measure(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, for a run that is continued."""
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._num_validations = state_dict["num_validations"]

    def _measure(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        rank, world_size = trainer.global_rank, trainer.world_size
        with isolate_rng():  # training draws what it would have drawn without this callback
            answers = self._answers(pl_module, self._examples[rank::world_size])
        if world_size > 1:
            shares: list[list[str]] = [[] for _ in range(world_size)]
            torch.distributed.all_gather_object(shares, answers)
            places = range(len(self._examples))
            answers = [shares[i % world_size][i // world_size] for i in places]
        references = [example.references for example in self._examples]
        for name in self.metrics:
            scores = TEXT_METRICS[name](answers, references)
            # Alike on all ranks already; without sync_dist Lightning doubts it, a line a metric.
            values = {f"{split}/{score}": value for score, value in scores.items()}
            pl_module.log_dict(values, sync_dist=True)
        is_trial = getattr(trainer, "fast_dev_run", False)  # which writes nothing
        if trainer.is_global_zero and not is_trial:
            self._keep(trainer, split, answers)

    def _answers(self, module: Any, examples: Sequence[GenerationExample]) -> list[str]:
        options = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        if not hasattr(module, "answer"):
            words = inspect.signature(module.generate).parameters.values()
            if not any(
                word.name == "temperature" or word.kind == word.VAR_KEYWORD for word in words
            ):
                del options["temperature"]
            return [module.generate(e.messages[-1]["content"], **options) for e in examples]
        conversations = [list(example.messages) for example in examples]
        answers: list[str] = []
        for start in range(0, len(conversations), self.batch_size):
            answers += module.answer(conversations[start : start + self.batch_size], **options)
        return answers

    def _keep(self, trainer: Trainer, split: str, answers: Sequence[str]) -> None:
        """Write the file and log the tables."""
        rows = [
            (_prompt(example.messages), example.references, answer)
            for example, answer in zip(self._examples, answers, strict=True)
        ]
        lines = [
            json.dumps({"prompt": prompt, "references": texts, "answer": a}, ensure_ascii=False)
            for prompt, texts, a in rows
        ]
        folder = self.folder or Path(trainer.default_root_dir) / "generations"
        path = folder / f"{split}_step{trainer.global_step:06d}.jsonl"
        write_atomically(path, "".join(line + "\n" for line in lines))
        table = [[prompt, "\n".join(texts), answer] for prompt, texts, answer in rows]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table(f"{split}/generations", list(COLUMNS), table)


def _prompt(messages: Sequence[Message]) -> str:
    """The conversation as a person reads it."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)

"""What `fit` says before it begins and after it is done."""

import shlex
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, Timer
from lightning.pytorch.utilities import rank_zero_only

from lit_gpt_kit.callbacks.sample_text import SampleText, default_prompt
from lit_gpt_kit.callbacks.throughput import Throughput
from lit_gpt_kit.cli.model_table import shares_of_parts
from lit_gpt_kit.cli.standing import describe_standing
from lit_gpt_kit.cli.time_left import clock_text
from lit_gpt_kit.loggers.wandb import WandbRun
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.optim.schedules import WarmupSchedule
from lit_gpt_kit.ranks import data_share, shares_model
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

SAMPLE_TOKENS = 120
LONGEST_PROMPT = 12
LONGEST_QUESTION = 8
"""Lines shown of a question; its end is what is asked."""
PER_LABEL = "val/f1_"


class Narrator(Callback):
    """Says in a few lines what a run is about to do, and at its end what came of it.

    Args:
        run_dir: where the run goes.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._started = 0.0

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is about to happen."""
        self._started = time.monotonic()
        lines = {
            "model": _describe_model(pl_module),
            "parts": _describe_parts(trainer, pl_module),
            "data": _describe_data(trainer),
            "training": _describe_training(trainer),
            "train/mfu": _describe_peak(trainer),
            "run folder": str(self.run_dir),
            "W&B run": _url(trainer),
        }
        print("\n".join(f"{name:>11}: {text}" for name, text in lines.items() if text), flush=True)

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where a continued run goes on."""
        if trainer.global_step:
            print(f"going on after step {trainer.global_step:,}", flush=True)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what came of it."""
        if trainer.interrupted or getattr(trainer, "fast_dev_run", False):
            return
        took = timedelta(seconds=round(time.monotonic() - self._started))
        print(f"\ndone: {trainer.global_step:,} steps in {took}")
        metrics = trainer.callback_metrics
        # What each label has is in metrics.csv; there may be many.
        names = sorted(m for m in metrics if m.startswith("val/") and not m.startswith(PER_LABEL))
        shown = [name for name in ("train/loss", *names) if name in metrics]
        width = max(20, *map(len, shown), 20)
        for name in shown:
            print(f"{name:>{width}}: {float(metrics[name]):.4f}")
        if standing := describe_standing(trainer, self.run_dir):
            print(f"\n{standing}")
        run_dir = shlex.quote(str(self.run_dir))
        command = _next_command(trainer, pl_module, run_dir)  # may print a sample
        if not trainer.checkpoint_callbacks:
            command = "nothing was saved to go on with, as trainer.enable_checkpointing says"
        pages = " or ".join(filter(None, (f"lit-gpt report {run_dir}", _url(trainer))))
        print(f"\ncurves: {pages}\nnext: {command}")


def _describe_model(module: LightningModule) -> str:
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    num_trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    trained = "" if num_trained == num_parameters else f", {num_trained:,} of them trained"
    config: Any = getattr(module, "gpt", None)
    if config is None:
        return f"{type(module).__name__}, {num_parameters:,} parameters{trained}"
    return (
        f"GPT with {num_parameters:,} parameters{trained}: {config.num_layers} layers, "
        f"{config.num_heads} heads, width {config.embed_dim}, block {config.block_size}, "
        f"vocabulary {config.vocab_size:,}"
    )


def _describe_parts(trainer: Trainer, module: LightningModule) -> str:
    config: Any = getattr(module, "gpt", None)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    has_table = any(isinstance(callback, ModelSummary) for callback in callbacks)
    return shares_of_parts(config) if isinstance(config, GPTConfig) and not has_table else ""


def _describe_data(trainer: Trainer) -> str:
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "describe"):
        return "" if data is None else type(data).__name__
    return str(data.describe())


def _describe_training(trainer: Trainer) -> str:
    steps = trainer.estimated_stepping_batches
    length = "until it is stopped" if steps == float("inf") else f"{int(steps):,} steps"
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "describe_steps"):
        length += f" {data.describe_steps(steps, data_share(trainer)[1])}"
    for schedule in (config.scheduler for config in trainer.lr_scheduler_configs):
        if isinstance(schedule, WarmupSchedule) and schedule.unit != "steps":
            length = f"{schedule.total:,g} {schedule.unit}"
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for timer in (c for c in callbacks if isinstance(c, Timer)):
        longest = f"{clock_text(timer.time_elapsed() + (timer.time_remaining() or 0.0))} at most"
        length = longest if steps == float("inf") else f"{length}, {longest}"
    devices = f"{trainer.num_devices} x " if trainer.num_devices > 1 else ""
    return f"{length}, {trainer.precision} on {devices}{trainer.strategy.root_device.type}"


def _describe_peak(trainer: Trainer) -> str:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    names = [c.peak_name for c in callbacks if isinstance(c, Throughput) and c.peak_name]
    return f"a share of {names[0]}" if names else ""


def _url(trainer: Trainer) -> str:
    urls = [logger.url for logger in trainer.loggers if isinstance(logger, WandbRun)]
    return next(filter(None, urls), "")


def _next_command(trainer: Trainer, module: LightningModule, run_dir: str) -> str:
    suggest: Any = getattr(module, "suggest", None)
    data: Any = getattr(trainer, "datamodule", None)
    can_write, can_answer = hasattr(module, "generate"), hasattr(module, "answer")
    if can_write and shares_model(trainer):  # this process alone could not
        can_answer = can_answer and hasattr(data, "generation_examples")
        return f"lit-gpt {'chat' if can_answer else 'generate'} {run_dir}"
    if hasattr(data, "generation_examples") and can_answer:
        _show_answer(module, data)
        return f"lit-gpt chat {run_dir}"
    if can_write or suggest is None:
        return f"lit-gpt generate {run_dir} --prompt {_show_sample(trainer, module)}"
    return str(suggest(run_dir))


def _show_answer(module: Any, data: Any) -> None:
    """Print what the model answers to a question that it has not been trained on."""
    for example in data.generation_examples("val")[:1]:
        (answer,) = module.answer([example.messages], max_new_tokens=SAMPLE_TOKENS)
        print("\nsample, from the validation rows:")
        for speaker, text in (("user", example.messages[-1]["content"]), ("model", answer)):
            for line in text.strip().splitlines()[-LONGEST_QUESTION:]:
                print(f"  {speaker:>5} | {line}")
                speaker = ""


def _show_sample(trainer: Trainer, module: LightningModule) -> str:
    """Print a text that the model writes, unless one was; returns a prompt to try, for a shell."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    text = next((c.last_text for c in callbacks if isinstance(c, SampleText) and c.last_text), None)
    if text is None:
        tokenizer = getattr(module, "tokenizer", None)
        write: Any = getattr(module, "generate", None)
        if not isinstance(tokenizer, Tokenizer) or write is None:
            return "TEXT"
        prompt = default_prompt(tokenizer)
        text = str(write(prompt, max_new_tokens=SAMPLE_TOKENS, temperature=0.8, top_k=50, seed=0))
        print("\nsample:\n" + "\n".join(f"  | {line}" for line in text.strip("\n").splitlines()))
    # A word of the sample, one that surely fits the block and that a person would type.
    words = [word for word in text.split() if word.isalpha() and len(word) <= LONGEST_PROMPT]
    return shlex.quote(words[0] if words else text.strip()[:1] or "TEXT")

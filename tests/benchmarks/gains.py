"""What each option of the model and the run gains: validation loss after equal steps, ms a step.

python -m tests.benchmarks.gains TEXT_FILE [--options NAME ...] [--seeds N] [--timing-only]

TEXT_FILE is Tiny Shakespeare. The network, the data and the schedule are those of
configs/shakespeare-char.yaml, the optimiser is MuonAdamW, and a run has 400 steps. An option that
the recipe has is taken out of it, another is put in, everything else stays; the loss is that of
the whole validation split, in nats a character, and the mean over the seeds. It depends on the
steps alone, so it may be measured on a busy machine; the milliseconds may not: `--timing-only`
measures them alone, all options taking turns in short runs.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn

from lit_gpt_kit import GPTConfig, LanguageModeling, MuonAdamW, TextDataModule, WarmupLinear
from lit_gpt_kit.callbacks.ema import EMAWeights
from lit_gpt_kit.cli.quiet import quieten_libraries
from lit_gpt_kit.data.batch_warmup import BatchWarmup
from lit_gpt_kit.model.head import Head
from lit_gpt_kit.model.loss import next_token_loss
from lit_gpt_kit.tasks.window_warmup import WindowWarmup
from lit_gpt_kit.tokenization.training import TokenizerConfig

STEPS, TIMED_STEPS, BATCH_SIZE, BLOCK_SIZE = 400, 40, 8, 256
RECIPE: dict[str, Any] = {
    "num_layers": 5, "num_heads": 3, "embed_dim": 192, "block_size": BLOCK_SIZE,
    "position": "rotary", "norm": "rmsnorm", "mlp": "relu2", "use_bias": False,
    "use_qk_norm": True, "tie_embeddings": False, "init": "zero_projection",
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """A change of the recipe.

    Attributes:
        gpt: fields of the network that are others.
        is_in_recipe: it is the recipe without what the option's name says.
        first_rows, first_window: where a warm-up over half of the run begins.
        ema_decay: of an average of the weights.
    """

    gpt: dict[str, Any] = field(default_factory=dict)
    is_in_recipe: bool = False
    first_rows: int | None = None
    first_window: int | None = None
    ema_decay: float | None = None


OPTIONS = {
    "zero_projection init (without: gpt2)": Option({"init": "gpt2"}, is_in_recipe=True),
    "QK-norm": Option({"use_qk_norm": False}, is_in_recipe=True),
    "relu2 (without: gelu)": Option({"mlp": "gelu"}, is_in_recipe=True),
    "logit softcap 15": Option({"logit_softcap": 15.0}),
    "token shift": Option({"use_token_shift": True}),
    "value embeddings, last two layers": Option({"value_embedding_layers": (3, 4)}),
    "batch warm-up from 2 rows, half of the run": Option(first_rows=2),
    "window warm-up from 32 tokens, half of the run": Option(first_window=32),
    "EMA of weights, decay 0.98": Option(ema_decay=0.98),
}
PLAIN = Option()


class Stopwatch(Callback):
    """Seconds a step, the first one aside."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """Look at the clock."""
        self._times.append(time.perf_counter())

    @property
    def milliseconds(self) -> float:
        """Of a step, on average."""
        return 1e3 * (self._times[-1] - self._times[0]) / (len(self._times) - 1)


def run(option: Option, text_file: Path, num_steps: int, seed: int) -> tuple[Trainer, float]:
    """A run of so many steps; returns its trainer, and milliseconds a step."""
    seed_everything(seed)
    half, rows, window = num_steps // 2, option.first_rows, option.first_window
    task = LanguageModeling(
        GPTConfig(**{**RECIPE, **option.gpt}),
        lambda groups: MuonAdamW(groups, lr=0.02, adamw_lr=5e-3),
        lambda optimizer: WarmupLinear(optimizer, warmup_steps=50, min_factor=0.02),
        window_warmup=None if window is None else WindowWarmup(window, half),
    )
    data = TextDataModule(
        [str(text_file)],
        tokenizer=TokenizerConfig("char"),
        batch_size=BATCH_SIZE,
        seed=seed,
        batch_warmup=None if rows is None else BatchWarmup(rows, half),
    )
    stopwatch = Stopwatch()
    averaging = [] if option.ema_decay is None else [EMAWeights(option.ema_decay)]
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=num_steps,
        gradient_clip_val=1.0,
        val_check_interval=num_steps + 1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*averaging, stopwatch],
    )
    trainer.fit(task, data)
    return trainer, stopwatch.milliseconds


def val_loss(option: Option, text_file: Path, seed: int) -> float:
    """That of the whole split, after a run."""
    trainer, _ = run(option, text_file, STEPS, seed)
    task, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    return float(trainer.validate(task, data, verbose=False)[0]["val/loss"])


def head_milliseconds(vocab_size: int) -> float:
    """Head and loss of 512 tokens, forward and backward, at GPT-2's width."""
    head = Head(768, vocab_size)
    nn.init.normal_(head.weight, std=0.02)
    hidden, targets = torch.randn(1, 512, 768, requires_grad=True), torch.arange(512)[None]
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        next_token_loss(hidden, head, targets).backward()
    return 1e3 * (time.perf_counter() - start)


def print_losses(names: list[str], text_file: Path, num_seeds: int) -> None:
    """A row as soon as it is known."""

    def mean(name: str, option: Option) -> float:
        losses = [val_loss(option, text_file, seed) for seed in range(num_seeds)]
        print(f"    {name}: {', '.join(f'{loss:.4f}' for loss in losses)}", flush=True)
        return statistics.mean(losses)

    plain = mean("the recipe", PLAIN)
    print("| option | val loss without | with |\n|---|---|---|")
    for name in names:
        changed = mean(name, OPTIONS[name])
        without, with_it = (changed, plain) if OPTIONS[name].is_in_recipe else (plain, changed)
        print(f"| {name} | {without:.4f} | {with_it:.4f} |", flush=True)


def print_times(names: list[str], text_file: Path, num_rounds: int) -> None:
    """Medians of runs that take turns; each option is compared with the recipe beside it."""
    times: dict[str, list[float]] = {name: [] for name in ("", *names)}
    heads: dict[int, list[float]] = {50257: [], 50304: []}
    for _ in range(num_rounds):
        for name, measured in times.items():
            measured.append(run(OPTIONS.get(name, PLAIN), text_file, TIMED_STEPS, seed=0)[1])
        for vocab_size, measured in heads.items():
            measured.append(head_milliseconds(vocab_size))
    print("| option | ms/step without | with |\n|---|---|---|")
    plain = statistics.median(times.pop(""))
    for name, measured in times.items():
        changed = statistics.median(measured)
        without, with_it = (changed, plain) if OPTIONS[name].is_in_recipe else (plain, changed)
        print(f"| {name} | {without:.1f} | {with_it:.1f} |")
    odd, even = (statistics.median(measured) for measured in heads.values())
    print(f"| vocabulary 50257 padded to 50304, head and loss alone | {odd:.1f} | {even:.1f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text_file", type=Path)
    parser.add_argument("--options", nargs="*", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--timing-only", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quieten_libraries()
    if options.timing_only:
        print_times(options.options, options.text_file, options.rounds)
    else:
        print_losses(options.options, options.text_file, options.seeds)


if __name__ == "__main__":
    main()

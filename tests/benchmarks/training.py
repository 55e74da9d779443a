"""Tokens a second of `lit-gpt fit`, a bare loop over the same GPT, and nanoGPT's model; medians.

python -m tests.benchmarks.training TEXT_FILE [--nanogpt MODEL_PY] [--rounds N]

All three train 6 layers of width 384 on rows of 256 characters, 8 at a time, with AdamW and
clipping under bf16 autocast. They take turns, so that a slow moment of the machine hits all.
`fit` runs as a person runs it: the command, in a terminal, with progress bar, metrics.csv and the
W&B log. MODEL_PY is nanoGPT's model.py, which is not part of this project.
"""

import argparse
import csv
import importlib.util
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_gpt_kit import GPT, GPTConfig
from lit_gpt_kit.model.loss import next_token_loss

SHAPE = {"num_layers": 6, "num_heads": 6, "embed_dim": 384, "block_size": 256}
VOCAB_SIZE, BATCH_SIZE, WARM_UP, STEPS = 65, 8, 10, 30
CONFIG = Path(__file__).parents[2] / "configs" / "shakespeare-char-nanogpt.yaml"


def bare_loop(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Tokens a second of a loop with nothing in it but the training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    shape = (BATCH_SIZE, SHAPE["block_size"])
    seconds = []
    for _ in range(WARM_UP + STEPS):
        ids, targets = torch.randint(VOCAB_SIZE, shape), torch.randint(VOCAB_SIZE, shape)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return BATCH_SIZE * SHAPE["block_size"] * STEPS / sum(seconds[WARM_UP:])


def ours() -> float:
    """The bare loop over our GPT."""
    model = GPT(GPTConfig(vocab_size=VOCAB_SIZE, mlp="gelu", use_bias=False, **SHAPE))

    def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
        hidden = model.hidden_states(ids)
        return next_token_loss(hidden, model.lm_head, targets) / targets.numel()

    return bare_loop(model, loss_of)


def nanogpt(path: Path) -> float:
    """The bare loop over nanoGPT's model."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    config = module.GPTConfig(
        block_size=256, vocab_size=65, n_layer=6, n_head=6, n_embd=384, dropout=0.0, bias=False
    )
    model = module.GPT(config)
    return bare_loop(model, lambda ids, targets: model(ids, targets)[1])


def fit(text_file: Path) -> float:
    """`lit-gpt fit` in a terminal; its own count, less the first steps."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            str(Path(sys.executable).with_name("lit-gpt")), "fit", "--config", str(CONFIG),
            f"--data.sources=[{text_file.resolve()}]", f"--data.batch_size={BATCH_SIZE}",
            f"--run_dir={folder}/run", "--trainer.precision=bf16-mixed",
            f"--trainer.log_every_n_steps={WARM_UP}", "--trainer.limit_val_batches=0",
            f"--trainer.max_steps={WARM_UP + STEPS}", "--model.optimizer.fused=true",
            *(f"--model.gpt.{name}={value}" for name, value in SHAPE.items()),
        ]  # fmt: skip
        ours_end, theirs = pty.openpty()
        with subprocess.Popen(arguments, stdout=theirs, stderr=theirs, cwd=folder) as process:
            os.close(theirs)
            while process.poll() is None:
                try:
                    os.read(ours_end, 65536)
                except OSError:  # the other end was closed
                    break
        os.close(ours_end)
        with open(f"{folder}/run/metrics.csv") as file:
            rates = [float(row["train/tokens_per_second"]) for row in csv.DictReader(file)]
    return statistics.harmonic_mean(rates[1:])


def main() -> None:
    """Print a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text_file", type=Path)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    contestants: dict[str, Callable[[], float]] = {
        "bare loop, our GPT": ours,
        "lit-gpt fit": lambda: fit(options.text_file),
    }
    if options.nanogpt:
        contestants["bare loop, nanoGPT's model"] = lambda: nanogpt(options.nanogpt)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, measure in contestants.items():
            rates[name].append(measure())
    base = statistics.median(rates["bare loop, our GPT"])
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:28} {median:8,.0f} tokens/s  {median / base:6.3f} of the bare loop")


if __name__ == "__main__":
    main()

"""What one GPU makes of it: GPT-2's shapes in tokens a second and MFU, and Tiny Shakespeare.

python -m tests.benchmarks.gpu [--only speed|recipe ...] [--shapes 124M|1.5B ...] [--steps N]
    [--micro-batch N] [--no-compile] [--aim LOSS] [--fit "OPTIONS"] [--write [PAGE]]

`speed` trains GPT-2's shape in rows of 1,024, vocabulary 50,304: bf16 autocast, fused AdamW,
clipping; a bare loop with compiled blocks, and for 124M `lit-gpt fit`. MFU is what `fit` logs as
`train/mfu`; a device whose peak is not known gets none. `recipe` is the size of nanoGPT's recipe
for a GPU (6 layers, 6 heads, width 384, rows of 256, 64 at a time, dropout 0.2) with the settings
of configs/shakespeare-char.yaml: seconds from Enter until the loss on the whole validation part is
1.4697. `--fit` adds options to all runs of `lit-gpt fit`. Without CUDA nothing is measured.
`--device cpu --tiny` only goes through the same lines, at a size that says nothing about speed.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lit_gpt_kit import GPT, GPTConfig
from lit_gpt_kit.devices import device_of_driver
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.model.flops import training_flops_per_token
from lit_gpt_kit.model.loss import next_token_loss
from tests.benchmarks import options as shared
from tests.benchmarks.contestants.assignment import Assignment, Size
from tests.benchmarks.contestants.fit import CONFIGS, watch
from tests.benchmarks.contestants.fit import speed as speed_of_fit
from tests.benchmarks.contestants.loop import adamw, peak_bytes
from tests.benchmarks.machine import conditions, shown_command
from tests.benchmarks.recipes import reached
from tests.benchmarks.tables import publish, shown, table

GPT2 = GPTConfig(vocab_size=50304, use_bias=False)
SHAPES = {"124M": GPT2, "1.5B": replace(GPT2, num_layers=48, num_heads=25, embed_dim=1600)}
MICRO_BATCHES = {"124M": 32, "1.5B": 8}
"""Rows that fit into 80 GB."""
TINY = GPTConfig(vocab_size=128, block_size=16, num_layers=2, num_heads=2, embed_dim=16)
AIM = 1.4697
BABY_GPT = {"num_layers": 6, "num_heads": 6, "embed_dim": 384, "block_size": 256, "dropout": 0.2}
TINY_BABY = {"num_layers": 1, "num_heads": 1, "embed_dim": 8, "block_size": 32, "dropout": 0.2}


def speed(
    config: GPTConfig, micro_batch: int, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Tokens a second, MFU where the peak is known, and the most memory of the device."""
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    with device:
        model = GPT(config)
    if options.compile:
        for block in model.blocks:
            block.compile()
    optimizer = adamw(model)
    shape = (micro_batch, config.block_size)
    start = 0.0
    for step in range(options.warm_up + options.steps):
        if step == options.warm_up:
            synchronize(device)
            start = time.perf_counter()
        ids = torch.randint(config.vocab_size or 0, shape, device=device)
        targets = torch.randint(config.vocab_size or 0, shape, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = next_token_loss(model.hidden_states(ids), model.lm_head, targets)
        (loss / targets.numel()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize(device)
    rate = options.steps * targets.numel() / (time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if is_gpu else peak_bytes()
    return {**figures_of(rate, config, device), "micro_batch": micro_batch, "peak_bytes": peak}


def fit_speed(
    config: GPTConfig, micro_batch: int, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """The same of `lit-gpt fit`, on characters; its process has the memory, so it is not known."""
    sizes = (config.num_layers, config.num_heads, config.embed_dim, config.block_size)
    assignment = Assignment(
        text=shared.text_of(options),
        threads=options.threads,
        warm_up=options.warm_up,
        steps=options.steps,
    )
    found = speed_of_fit(
        assignment,
        Size(*sizes, micro_batch, config.vocab_size or 0),
        f"--trainer.accelerator={options.device}",
        *shlex.split(options.fit),
    )
    rate = found["tokens_per_second"]
    return {**figures_of(rate, config, device), "micro_batch": micro_batch, "peak_bytes": None}


def figures_of(rate: float, config: GPTConfig, device: torch.device) -> dict[str, Any]:
    """Tokens a second, and the MFU that they are, where the peak is known."""
    is_gpu = device.type == "cuda"
    known = device_of_driver(torch.cuda.get_device_name()) if is_gpu else None
    mfu = None if known is None else rate * training_flops_per_token(config) / known.peak_bf16
    return {"tokens_per_second": rate, "mfu": mfu}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """`lit-gpt fit` at the size of nanoGPT's recipe: its losses, and when the aim was reached."""
    size, batch_size = (TINY_BABY, 2) if options.tiny else (BABY_GPT, 64)
    found = watch(
        options.threads,
        shared.text_of(options),
        f"--config={CONFIGS / 'shakespeare-char.yaml'}",
        f"--trainer.accelerator={options.device}",
        f"--data.batch_size={batch_size}",
        *(f"--model.gpt.{name}={value}" for name, value in size.items()),
        *shlex.split(options.fit),
    )
    return found | {"reached": reached(found["losses"], options.aim)}


def speed_table(figures: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            str(row["micro_batch"]),
            shown(row["tokens_per_second"], ",.0f"),
            shown(row["mfu"], ".1%"),
            shown(row["peak_bytes"] and row["peak_bytes"] / 1e9, ".1f"),
        ]
        for name, row in figures.items()
    ]
    return table(["shape", "rows", "tokens/s", "MFU", "peak memory, GB"], rows)


def recipe_table(figures: dict[str, Any], aim: float) -> str:
    row = [shown(figures["wall_seconds"], ".0f"), shown(figures["loss"], ".4f")]
    row += [shown(min((loss for _, loss in figures["losses"]), default=None), ".4f")]
    head = ["seconds", "val/loss at the end", "best", f"seconds to {aim}"]
    return table(head, [[*row, shown(figures["reached"], ".1f")]])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = shared.build_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=("speed", "recipe"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--warm_up", type=int, default=10, help="steps that do not count")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--micro-batch", type=int, help=f"by default {MICRO_BATCHES}")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--aim", type=float, default=AIM)
    parser.add_argument("--fit", default="", metavar="OPTIONS")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device here; nothing was measured", file=sys.stderr)
        sys.exit(2)
    device = torch.device(options.device)
    name = "the CPU, which says nothing"
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        name = torch.cuda.get_device_name()
    command = shown_command("tests.benchmarks.gpu", arguments, shared.WHERE_RESULTS_GO)
    heading = f"On {name}. {conditions(options.threads)}\n\n{command}\n\n"
    results: dict[str, Any] = {"device": name, "command": command.splitlines()[2]}
    tables: dict[str, str] = {}
    wanted = options.only or ("speed", "recipe")
    if "speed" in wanted:
        results["speed"] = {}
        for shape in options.shapes:
            micro_batch = options.micro_batch or MICRO_BATCHES[shape]
            config = TINY if options.tiny else SHAPES[shape]
            try:
                if shape == "124M":  # the larger one would write 19 GB of checkpoint
                    row = fit_speed(config, micro_batch, options, device)
                    results["speed"][f"{shape}, `lit-gpt fit`"] = row
                results["speed"][f"{shape}, bare loop"] = speed(
                    config, micro_batch, options, device
                )
            except RuntimeError as error:  # above all, out of memory
                print(f"{shape} with {micro_batch} rows: {error}", file=sys.stderr)
            torch.cuda.empty_cache()
        tables["gpu-speed"] = speed_table(results["speed"])
    if "recipe" in wanted:
        results["recipe"] = recipe(options)
        tables["gpu-recipe"] = recipe_table(results["recipe"], options.aim)
    for place, content in tables.items():
        publish(place, heading + content, options.write)
    if options.output:
        write_atomically(options.output, json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

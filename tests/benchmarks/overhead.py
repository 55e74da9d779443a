"""What token-exact scaling, clipping and logging cost in a step, each way in turn in one run.

python -m tests.benchmarks.overhead [--text FILE] [--size 10.65M] [--rounds N] [--steps N]
    [--threads N] [--output FIGURES.json]

All ways are Lightning's Trainer with the same network, data and fused AdamW under bf16 autocast:

- nothing: the loss is a micro-batch's mean; no clipping, no norm, no logger.
- scaling: the loss of the whole step, its gradient's norm, and the look whether they are finite.
- scaling and clipping: by norm, too.
- all: every tenth step is logged into metrics.csv, too, as `lit-gpt fit` does.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from lit_gpt_kit.files import write_atomically
from tests.benchmarks import options as shared
from tests.benchmarks.contestants.assignment import REPOSITORY, SIZES
from tests.benchmarks.machine import conditions, shown_command
from tests.benchmarks.tables import shown, table
from tests.benchmarks.turns import last_line, median, median_ratio

WAYS = ("nothing", "scaling", "scaling and clipping", "all")
LOG_EVERY, CLIP = 10, 1.0


def turn(way: str, size: str, text: str, warm_up: int, steps: int) -> float:
    """Tokens a second of one way after the warm-up."""
    import torch
    from lightning.pytorch import Callback, Trainer
    from torch import Tensor
    from torch.optim import Optimizer

    from lit_gpt_kit import GPTConfig, LanguageModeling, TextDataModule, TokenizerConfig
    from lit_gpt_kit.loggers.metrics_csv import MetricsCSV

    class Bare(LanguageModeling):
        """The mean of a micro-batch, and nothing around it."""

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            nll, num_targets = self.compute_loss(batch)
            return nll / num_targets

        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            """None."""

    class Clock(Callback):
        start = end = 0.0

        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == warm_up:
                self.start = time.perf_counter()

        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            self.end = time.perf_counter()

    shape, clock = SIZES[size], Clock()
    config = GPTConfig(
        shape.vocab_size, shape.block_size, num_layers=shape.num_layers,
        num_heads=shape.num_heads, embed_dim=shape.embed_dim,
    )  # fmt: skip

    def optimizer(groups: Any) -> Optimizer:
        return torch.optim.AdamW(groups, lr=1e-3, fused=True)

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        data = TextDataModule(
            [text], tokenizer=TokenizerConfig("char"), batch_size=shape.batch_size,
            cache_dir=f"{folder}/cache",
        )  # fmt: skip
        is_logged = way == "all"
        trainer = Trainer(
            accelerator="cpu", precision="bf16-mixed", max_steps=warm_up + steps,
            callbacks=[clock], logger=MetricsCSV(folder) if is_logged else False,
            log_every_n_steps=LOG_EVERY if is_logged else 0, limit_val_batches=0,
            gradient_clip_val=CLIP if way in ("scaling and clipping", "all") else None,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, num_sanity_val_steps=0,
        )  # fmt: skip
        task = Bare if way == "nothing" else LanguageModeling
        trainer.fit(task(config, optimizer), data)
    return steps * shape.tokens_per_step / (clock.end - clock.start)


def in_a_process(arguments: dict[str, Any], threads: int) -> float:
    """A turn in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.overhead", "--turn", json.dumps(arguments)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    return float(last_line(done.stdout))


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--turn"]:
        print(turn(**json.loads(arguments[1])))
        return
    parser = shared.build_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="10.65M")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm_up", type=int, default=10, help="steps that do not count")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args(arguments)
    task = {"size": options.size, "text": shared.text_of(options)}
    task |= {"warm_up": options.warm_up, "steps": options.steps}
    rates: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS[:: 1 if number % 2 else -1]:  # nobody is always the first
            rates[way][number] = in_a_process({"way": way, **task}, options.threads)
            print(f"round {number}, {way}: {rates[way][number]:,.0f} tokens/s", flush=True)
            if options.output is not None:
                write_atomically(options.output, json.dumps(rates, indent=1))
    rows = [
        [way, shown(median(of_way), ",.0f"), shown(median_ratio(of_way, rates["nothing"]), ".3f")]
        for way, of_way in rates.items()
    ]
    command = shown_command("tests.benchmarks.overhead", arguments, shared.WHERE_RESULTS_GO)
    rounds = f"Medians of {options.rounds} rounds of {options.steps} steps, ratios within a round."
    print(f"\n{conditions(options.threads)} {rounds}\n\n{command}\n")
    print(table(["", "tokens/s", "of nothing"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])

"""What runs of a few steps end with, on ranks of their own or on none.

Run on each of two ranks as `python -m tests.parallel.cases FOLDER`.
"""

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import LightningModule, seed_everything

from lit_gpt_kit import (
    ClassificationDataModule,
    GPTConfig,
    LanguageModeling,
    LoRAConfig,
    MuonAdamW,
    SequenceClassification,
    TextDataModule,
    TokenizerConfig,
)
from lit_gpt_kit.checkpoints.native import read_checkpoint
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.execution import ExecutionConfig
from lit_gpt_kit.parallel import ShardedStrategy, saving
from tests.tiny import make_task, make_trainer

STEPS = 3
# Without biases: those of keys have no gradient but rounding, which Adam makes large.
WIDE = GPTConfig(
    num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=16, block_size=8, use_bias=False
)


def text(folder: Path, **options: Any) -> TextDataModule:
    settings: dict[str, Any] = {"tokenizer": TokenizerConfig("byte"), "batch_size": 8}
    sources = [str(folder / "poem.txt")]
    return TextDataModule(sources, cache_dir=str(folder / "cache"), **{**settings, **options})


def labels(folder: Path) -> ClassificationDataModule:
    sources = [str(folder / "rows.jsonl")]
    return ClassificationDataModule(sources, batch_size=8, cache_dir=str(folder / "cache"))


def pretrained(folder: Path, **options: Any) -> LightningModule:
    return LanguageModeling(
        pretrained=str(folder / "base"),
        # The epsilon is large, so that a gradient of rounding errors alone moves nothing.
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2, eps=1e-3),
        **options,
    )


def adapted_with_dropout(folder: Path, kind: Any) -> LightningModule:
    """Adapters and network drop activations, which are kept or made twice."""
    execution = ExecutionConfig(activation_checkpointing=kind)
    lora = LoRAConfig(rank=2, dropout=0.1)
    return pretrained(folder, lora=lora, gpt=GPTConfig(dropout=0.2), execution=execution)


def without_tokenizer(folder: Path) -> TextDataModule:
    return text(folder, tokenizer=None)


def muon() -> LightningModule:
    return make_task(WIDE, lambda params: MuonAdamW(params, weight_decay=0.1))


@dataclass(frozen=True)
class Run:
    """A run, and how it is laid over two devices.

    Attributes:
        task: makes the task.
        data: makes the data module.
        strategy: arguments of ShardedStrategy.
        options: of the Trainer.
    """

    task: Callable[[Path], LightningModule]
    data: Callable[[Path], Any] = text
    strategy: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


CUT = {"tensor_parallel_size": 2}
CLIPPED = {"gradient_clip_val": 0.05}
WHOLE = {"save_distributed_checkpoint": False}
RUNS = {
    "Muon": Run(lambda folder: muon(), options=CLIPPED),
    "Muon, cut": Run(lambda folder: muon(), strategy=CUT, options=CLIPPED),
    "one file": Run(lambda folder: make_task(WIDE), strategy=WHOLE),
    "one file, cut": Run(lambda folder: make_task(WIDE), strategy={**CUT, **WHOLE}),
    "offloaded": Run(lambda folder: make_task(WIDE), strategy={"cpu_offload": True}),
    "bf16": Run(lambda folder: make_task(WIDE), options={"precision": "bf16-mixed"}),
    "pretrained": Run(pretrained, without_tokenizer),
    "pretrained, cut": Run(pretrained, without_tokenizer, CUT),
    "adapters": Run(lambda folder: pretrained(folder, lora=LoRAConfig(rank=2)), without_tokenizer),
    "classification": Run(
        lambda folder: SequenceClassification(
            WIDE, optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2)
        ),
        labels,
    ),
    "dropout, cut": Run(lambda folder: make_task(replace(WIDE, dropout=0.3)), strategy=CUT),
    **{
        f"dropped, {kind}": Run(partial(adapted_with_dropout, kind=kind), without_tokenizer)
        for kind in ("none", "selective", "full")
    },
}


def end_of(name: str, folder: Path, is_spread: bool) -> dict[str, Any]:
    """The metrics and the checkpoint at the end of a run."""
    run = RUNS[name]
    seed_everything(0)  # which a strategy does again
    data, options = run.data(folder), dict(run.options)
    if is_spread:
        options |= {"devices": 2, "strategy": ShardedStrategy(**run.strategy)}
        if "tensor_parallel_size" not in run.strategy:
            data.batch_size //= 2
    trainer = make_trainer(folder, STEPS, val_check_interval=STEPS, **options)
    trainer.fit(run.task(folder), data)
    path = folder / f"{name}.{'spread' if is_spread else 'one'}.ckpt"
    trainer.save_checkpoint(path)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"metrics": metrics, "checkpoint": read_checkpoint(path)}


def go_on(folder: Path, path: Path, **strategy: Any) -> dict[str, Any]:
    """The checkpoint two steps after another one."""
    if strategy:
        options: dict[str, Any] = {"devices": 2, "strategy": ShardedStrategy(**strategy)}
    else:
        options = {}
    trainer = make_trainer(folder, STEPS + 2, val_check_interval=STEPS + 2, **options)
    trainer.fit(make_task(WIDE), text(folder), ckpt_path=path, weights_only=True)
    after = folder / f"{path.name}.after.ckpt"
    trainer.save_checkpoint(after)
    return read_checkpoint(after)


def save_on_a_full_disk(folder: Path) -> list[Any]:
    """What each rank says where the disk is full for the first one alone, after all have saved."""

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    task, options = make_task(WIDE), {"devices": 2, "strategy": ShardedStrategy()}
    trainer = make_trainer(folder, 1, limit_val_batches=0, **options)
    trainer.fit(task, text(folder))
    said: Any = None
    with mock.patch.object(saving, "_write_rest", fail):
        try:
            trainer.save_checkpoint(folder / "full" / "last.ckpt")
        except InputError as error:
            said = str(error)
    all_said: list[Any] = [None, None]
    torch.distributed.all_gather_object(all_said, said)
    return [*all_said, [path.name for path in (folder / "full").iterdir()]]


def main(folder: Path) -> None:
    results: dict[str, Any] = {name: end_of(name, folder, is_spread=True) for name in RUNS}
    # A file that a run on one device wrote, cut over two.
    results["from one file"] = go_on(folder, folder / "one file.one.ckpt", **CUT)
    losses: list[Any] = [None, None]
    own = results["dropout, cut"]["metrics"]["train/loss"]
    torch.distributed.all_gather_object(losses, own)
    results["dropped alike"] = losses
    results["full disk"] = save_on_a_full_disk(folder)
    if torch.distributed.get_rank() == 0:
        torch.save(results, folder / "spread.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

"""One global batch, trained on in many ways: which loss and which gradient each of them gives.

Run on each of N ranks as `python -m tests.tasks.equivalence N FILE`, for the ways of N ranks.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor

from lit_gpt_kit import GPT, GPTConfig, LanguageModeling
from lit_gpt_kit.checkpoints.sharded import WEIGHTS
from lit_gpt_kit.model.loss import IGNORE_INDEX
from lit_gpt_kit.parallel import ShardedStrategy
from lit_gpt_kit.parallel.places import Places
from lit_gpt_kit.ranks import data_share
from tests.ranks import run_ranks

NUM_TARGETS = (1, 30, 2, 17, 1, 31, 5, 3)
"""Of the documents of the batch: very unequal."""
LONGEST = 32
NETWORKS = {
    "gpt2": GPTConfig(
        vocab_size=61, block_size=2 * LONGEST, num_layers=2, num_heads=4, embed_dim=32
    ),
    "llama": GPTConfig(
        vocab_size=61,
        block_size=2 * LONGEST,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=32,
        position="rotary",
        norm="rmsnorm",
        mlp="swiglu",
        use_bias=False,
        use_qk_norm=True,
        tie_embeddings=False,
    ),
}
Case = tuple[str, str]
CASES = [(network, rows) for network in NETWORKS for rows in ("dense", "padded", "packed")]


@dataclass(frozen=True)
class Way:
    """How the batch is spread: over processes, and over micro-batches."""

    num_ranks: int = 1
    strategy: Any = None
    micro_batches: int = 1


WAYS = {
    "one process": Way(),
    "accumulation 2": Way(micro_batches=2),
    "accumulation 4": Way(micro_batches=4),
    "DDP 2": Way(2, DDPStrategy),
    "DDP 2, accumulation 2": Way(2, DDPStrategy, 2),
    "FSDP2 2": Way(2, ShardedStrategy),
    "FSDP2 2, accumulation 2": Way(2, ShardedStrategy, 2),
    "FSDP2 2, Lightning's own": Way(2, lambda: ModelParallelStrategy(2, 1)),
    "FSDP2 2, on the host": Way(2, lambda: ShardedStrategy(cpu_offload=True)),
    "tensor parallel 2": Way(2, lambda: ShardedStrategy(tensor_parallel_size=2)),
    "FSDP2 2 x tensor parallel 2": Way(4, lambda: ShardedStrategy(tensor_parallel_size=2)),
}


def global_batch(rows: str) -> dict[str, Tensor]:
    """The same documents as rows of their own or two in a row; or rows that are all targets."""
    numbers = torch.Generator().manual_seed(1)
    documents = torch.randint(61, (len(NUM_TARGETS), LONGEST + 1), generator=numbers)
    ids, targets = documents[:, :-1], documents[:, 1:].clone()
    if rows == "dense":
        return {"input_ids": ids, "targets": targets}
    for target, count in zip(targets, NUM_TARGETS, strict=True):
        target[: LONGEST - count] = IGNORE_INDEX
    if rows == "padded":
        padding = torch.zeros_like(ids)
        none = torch.full_like(ids, IGNORE_INDEX)
        return {"input_ids": torch.cat([ids, padding], 1), "targets": torch.cat([targets, none], 1)}
    which = torch.arange(2).repeat_interleave(LONGEST).expand(len(ids) // 2, -1)
    wide = -1, 2 * LONGEST
    return {
        "input_ids": ids.reshape(wide),
        "targets": targets.reshape(wide),
        "document_ids": which.contiguous(),
    }


class OneBatch(LightningDataModule):
    """A step's batch, cut into equal shares for ranks and micro-batches."""

    batch_size = 8

    def __init__(self, batch: dict[str, Tensor]) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> "OneBatch":
        return self

    def __len__(self) -> int:
        assert self.trainer is not None
        return self.trainer.accumulate_grad_batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        assert self.trainer is not None
        rank, num_ranks = data_share(self.trainer)
        for micro_batch in range(len(self)):
            place, num_shares = micro_batch * num_ranks + rank, len(self) * num_ranks
            yield {name: value.chunk(num_shares)[place] for name, value in self.batch.items()}


class Watched(LanguageModeling):
    """Keeps the gradient of its step, whole, and the loss."""

    def configure_gradient_clipping(self, *args: Any, **options: Any) -> None:
        super().configure_gradient_clipping(*args, **options)
        places = Places(self, [])
        self.gradients = {
            name: places.gather(f"{WEIGHTS}.{name}", parameter.grad)
            for name, parameter in self.named_parameters()
            if parameter.grad is not None
        }


def learn(way: Way, network: str, rows: str) -> dict[str, Tensor]:
    """Loss, gradient norm and gradient of a step."""
    seed_everything(3, verbose=False)
    task = Watched(NETWORKS[network], lambda params: torch.optim.SGD(params, lr=0.1))
    trainer = Trainer(
        accelerator="cpu",
        devices=way.num_ranks,
        strategy="auto" if way.strategy is None else way.strategy(),
        accumulate_grad_batches=way.micro_batches,
        max_steps=1,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, OneBatch(global_batch(rows)))
    logged = {name: trainer.callback_metrics[f"train/{name}"] for name in ("loss", "grad_norm")}
    return {**logged, **task.gradients}


def reference(network: str, rows: str) -> dict[str, Tensor]:
    """The same in float64 and by torch's own mean, from one row after the other."""
    seed_everything(3, verbose=False)
    model = GPT(NETWORKS[network]).double()
    batch = global_batch("dense" if rows == "dense" else "padded")
    losses = []
    for ids, targets in zip(batch["input_ids"], batch["targets"], strict=True):
        is_target = targets != IGNORE_INDEX
        logits = model(ids[None])[0, is_target]
        losses.append(F.cross_entropy(logits, targets[is_target], reduction="none"))
    loss = torch.cat(losses).mean()
    loss.backward()
    gradients = {f"model.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
    return {"loss": loss.detach(), "grad_norm": norm, **gradients}


def learn_all(num_ranks: int) -> dict[str, dict[Case, dict[str, Tensor]]]:
    """Way -> case -> what was learned, of the ways of so many ranks."""
    ways = {name: way for name, way in WAYS.items() if way.num_ranks == num_ranks}
    return {name: {case: learn(way, *case) for case in CASES} for name, way in ways.items()}


def spread_over(num_ranks: int, folder: Path) -> dict[str, dict[Case, dict[str, Tensor]]]:
    """The same, with processes of their own."""
    file = folder / f"{num_ranks}.pt"
    run_ranks("tests.tasks.equivalence", num_ranks, str(num_ranks), str(file))
    results: dict[str, dict[Case, dict[str, Tensor]]] = torch.load(file, weights_only=True)
    return results


def differences(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative: of the loss, of the whole gradient, and of the tensor that is worst."""
    names = [name for name in expected if name not in ("loss", "grad_norm")]
    assert actual.keys() == expected.keys()
    apart = {name: (actual[name].double() - expected[name].double()).norm() for name in names}
    norms = {name: expected[name].double().norm() for name in names}
    whole = torch.stack(list(norms.values())).norm()
    return {
        "loss": float(abs(actual["loss"] / expected["loss"] - 1)),
        "gradient norm": float(abs(actual["grad_norm"] / expected["grad_norm"] - 1)),
        "gradient": float(torch.stack(list(apart.values())).norm() / whole),
        "worst tensor": max(float(apart[name] / norms[name]) for name in names),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = learn_all(int(sys.argv[1]))
    if torch.distributed.get_rank() == 0:
        torch.save(results, sys.argv[2])

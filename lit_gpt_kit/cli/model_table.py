"""A network's parts as a table for people: shapes, numbers of parameters, shares."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities import rank_zero_only

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora
from lit_gpt_kit.model.size import count_by_part, projection_widths

ADAPTERS, OTHERS = "adapters", "others"


class PartsTable(ModelSummary):
    """What `trainer.enable_model_summary` shows: a GPT by its parts, other modules as Lightning's.

    Lightning's own counts layers by their names, of which a GPT has one.
    """

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        config: Any = getattr(pl_module, "gpt", None)
        if not isinstance(config, GPTConfig):
            super().on_fit_start(trainer, pl_module)
            return
        print("\n".join(table_of_parts(config, beside=weights_beside(pl_module, config))))


def table_of_parts(config: GPTConfig, beside: dict[str, int] | None = None) -> list[str]:
    """A table of the network's parts, a line each.

    Args:
        config: its shape.
        beside: what there is beside the network, and how many weights it has.
    """
    parts = {**count_by_part(config), **(beside or {})}
    total = sum(parts.values())
    rows = [("part", "shape", "parameters", "share")]
    rows += [
        (name, _shape(config, name), f"{n:,}", f"{n / total:.1%}") for name, n in parts.items()
    ]
    rows.append(("all", "", f"{total:,}", "100.0%"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in rows
    ]


def shares_of_parts(config: GPTConfig) -> str:
    """The same in a line, the largest first, those below a hundredth left out."""
    parts = count_by_part(config)
    total = sum(parts.values())
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {n / total:.0%}" for name, n in ordered if n >= total / 100)


def count_adapters(config: GPTConfig, lora: LoRAConfig) -> int:
    """How many weights adapters of this kind have, beside a network that is only outlined.

    Raises:
        InputError: a target matches no layer.
    """
    with torch.device("meta"):
        model = apply_lora(GPT(config, initialize=False), lora)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def weights_beside(module: LightningModule, config: GPTConfig) -> dict[str, int]:
    """What a built module has beside its network: adapters, a head, somebody's additions."""
    total = sum(parameter.numel() for parameter in module.parameters())
    adapters: Any = getattr(module, "adapters", None)
    counts = {} if adapters is None else {ADAPTERS: count_adapters(config, adapters.config)}
    head: Any = getattr(module, "head", None)
    if isinstance(head, torch.nn.Module):
        counts["classification head"] = sum(p.numel() for p in head.parameters())
    rest = total - sum(count_by_part(config).values()) - sum(counts.values())
    return counts | ({OTHERS: rest} if rest > 0 else {})


def _shape(config: GPTConfig, part: str) -> str:
    layers, embed, vocab = config.num_layers, config.embed_dim, config.padded_vocab_size
    queries, keys = projection_widths(config)
    experts = "" if config.num_experts is None else f"{config.num_experts} experts x "
    width = config.mlp_width if config.num_experts is None else config.expert_width
    shapes = {
        "token embedding": f"{vocab:,} x {embed:,}",
        "positions": f"{config.block_size:,} x {embed:,}",
        "token shift": f"{embed:,}",
        "value embeddings": f"{len(set(config.value_embedding_layers))} x ({vocab:,} x {keys:,})",
        "attention": f"{layers} x ({embed:,} -> {queries + 2 * keys:,}, {queries:,} -> {embed:,})",
        "MLP": f"{layers} x {experts}({embed:,} -> {width:,} -> {embed:,}, {config.mlp})",
        "norms": config.norm,
        "head": f"{embed:,} -> {vocab:,}",
    }
    return shapes.get(part, "")

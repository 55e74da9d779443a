"""A tiny run, for tests: a two-layer network and a handful of steps."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from lit_gpt_kit import GPTConfig, LanguageModeling, WarmupCosine

TINY = GPTConfig(num_layers=2, num_heads=2, embed_dim=16, block_size=8)


def make_task(
    config: GPTConfig = TINY, optimizer: Any = None, total_steps: int = 20, **options: Any
) -> LanguageModeling:
    seed_everything(0)
    return LanguageModeling(
        config,
        optimizer or (lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True)),
        lambda opt: WarmupCosine(opt, warmup_steps=3, total_steps=total_steps),
        **options,
    )


def make_trainer(folder: Path, max_steps: int, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": max_steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(**{**settings, **options})

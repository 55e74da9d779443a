"""nanoGPT's model in the bare loop. Its model.py is not part of this project.

In fp32 it has its own optimiser, as shipped; in bf16 AdamW is fused, which its loop leaves to GPUs.
"""

import importlib.util
import sys
from typing import Any

import torch

from tests.benchmarks.contestants.assignment import Assignment, answer
from tests.benchmarks.contestants.loop import (
    BETAS,
    LEARNING_RATE,
    SEED,
    WEIGHT_DECAY,
    adamw,
    train,
)


def nanogpt_model(assignment: Assignment) -> dict[str, Any]:
    assert assignment.nanogpt is not None
    spec = importlib.util.spec_from_file_location("nanogpt", assignment.nanogpt)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    shape = assignment.shape
    torch.manual_seed(SEED)
    model = module.GPT(
        module.GPTConfig(
            block_size=shape.block_size,
            vocab_size=shape.vocab_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_embd=shape.embed_dim,
            dropout=0.0,
            bias=False,
        )
    )
    optimizer = adamw(model)
    if assignment.precision == "fp32":
        optimizer = model.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")
    return train(model, lambda ids, targets: model(ids, targets)[1], assignment, optimizer)


if __name__ == "__main__":
    answer(nanogpt_model)

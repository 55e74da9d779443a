"""A bare loop over our GPT in GPT-2's shape: what `lit-gpt fit` would cost without the rest."""

from typing import Any

import torch
from torch import Tensor

from lit_gpt_kit import GPT, GPTConfig
from lit_gpt_kit.model.loss import next_token_loss
from tests.benchmarks.contestants.assignment import Assignment, answer
from tests.benchmarks.contestants.loop import SEED, train


def bare_loop(assignment: Assignment) -> dict[str, Any]:
    shape = assignment.shape
    torch.manual_seed(SEED)
    model = GPT(
        GPTConfig(
            vocab_size=shape.vocab_size,
            block_size=shape.block_size,
            num_layers=shape.num_layers,
            num_heads=shape.num_heads,
            embed_dim=shape.embed_dim,
            mlp="gelu",
            use_bias=False,
        )
    )

    def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
        return next_token_loss(model.hidden_states(ids), model.lm_head, targets) / targets.numel()

    return train(model, loss_of, assignment)


if __name__ == "__main__":
    answer(bare_loop)

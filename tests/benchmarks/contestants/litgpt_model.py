"""litgpt's GPT and loss in the bare loop, which does less than litgpt's own.

It runs in an environment of its own, which needs nothing of ours but this checkout:

    python -m venv litgpt && litgpt/bin/pip install litgpt==0.5.13 torch==2.13.0

(its command `litgpt` would need `requests` too, which it does not declare).
"""

from typing import Any

import torch
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.utils import chunked_cross_entropy
from torch import Tensor

from tests.benchmarks.contestants.assignment import Assignment, answer
from tests.benchmarks.contestants.loop import SEED, train


def litgpt_model(assignment: Assignment) -> dict[str, Any]:
    shape = assignment.shape
    torch.manual_seed(SEED)
    model = GPT(
        Config(
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_embd=shape.embed_dim,
            block_size=shape.block_size,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            bias=False,
        )
    )

    def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
        return chunked_cross_entropy(model(ids), targets, chunk_size=0)

    return train(model, loss_of, assignment)


if __name__ == "__main__":
    answer(litgpt_model)

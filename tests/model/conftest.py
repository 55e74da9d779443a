"""Shared by the tests of the network: a seed, and tiny networks whose every weight matters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import register_random
from torch import nn

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT


class TorchRandom:
    """Torch's generator in the shape that hypothesis seeds before each example."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


# Hypothesis keeps a weak reference, hence the name.
TORCH_RANDOM = TorchRandom()
register_random(TORCH_RANDOM)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def random_gpt() -> Callable[..., GPT]:
    """Builds a two-layer GPT, in evaluation mode, from changes to its config."""

    def build(**changes: Any) -> GPT:
        shape = {"vocab_size": 17, "block_size": 16, "num_layers": 2, "num_heads": 4}
        model = GPT(GPTConfig(**(shape | {"embed_dim": 32} | changes))).eval()
        # Fresh biases are 0 and fresh norms 1: a network that forgot them would pass.
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        return model

    return build

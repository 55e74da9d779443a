"""Shared by the tests of generation: tokenizers, and a network whose every weight matters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.conftest import shared_data


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return train_tokenizer(TokenizerConfig("byte"), [])


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(shared_data("tokenizers/gpt2"))


@pytest.fixture(scope="session")
def random_gpt() -> Callable[..., GPT]:
    """Builds a two-layer GPT, in evaluation mode, from changes to its config."""

    def build(**changes: Any) -> GPT:
        shape = {"vocab_size": 31, "block_size": 32, "num_layers": 2, "num_heads": 4}
        # A tied head of random weights would say the last token again and again.
        shape |= {"embed_dim": 32, "tie_embeddings": False}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = GPT(GPTConfig(**(shape | changes))).eval()
            # Fresh biases are 0 and fresh norms 1: a network that forgot them would pass. Gains
            # and embeddings of about 1 make texts that say more than the same token.
            for name, parameter in model.named_parameters():
                is_gain, is_embedding = "norm.weight" in name, "embedding" in name
                nn.init.normal_(parameter, mean=float(is_gain), std=1.0 if is_embedding else 0.3)
        return model

    return build

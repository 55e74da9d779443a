"""Value embeddings: what a token gives to those that attend to it, looked up, not computed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class ValueEmbedding(nn.Module):
    """scale * table[token], a row for each token as wide as the values of one layer.

    The values of a layer are a function of the stream, which deep layers have written over; this
    gives them the token itself, at the price of a lookup. The idea is that of value residuals (Zhou
    et al. 2024), which add the first layer's values; tables of their own, a learned share of which
    is added, are Jordan et al.'s (modded-nanogpt). The share starts at 1, and the table as
    other embeddings do.
    """

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        # Of one number, not of none: a sharded network has no shards of a scalar.
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, token_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:
        """What is added to the values of these tokens."""
        return self.scale * nn.functional.embedding(token_ids, self.weight)

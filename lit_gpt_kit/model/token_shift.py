"""Token shift: each token brings along some of the token before it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class TokenShift(nn.Module):
    """y_t = x_t + weight * x_(t-1), on token embeddings; a row's first token has none before it.

    The first layer then attends with pairs of tokens at once, which else takes it a head to learn.
    The idea is RWKV's (Peng et al. 2023, section 3.1), there in every layer; one share for each
    number of the embedding, beginning at 0.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: Float[Tensor, "batch seq dim"], before: Float[Tensor, "batch seq dim"]
    ) -> Float[Tensor, "batch seq dim"]:
        """Embeddings, with a share of those `before` them."""
        return torch.addcmul(x, before, self.weight.type_as(x))

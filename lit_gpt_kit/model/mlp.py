"""The position-wise MLP of a block, plain or gated."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lit_gpt_kit.model.config import GATED_MLPS, GPTConfig
from lit_gpt_kit.model.dropout import Dropout


def gelu(x: Tensor) -> Tensor:
    """The value x * Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016)."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of gelu that GPT-2 uses."""
    return F.gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, Primer)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu2": squared_relu,
    "swiglu": F.silu,
    "geglu": gelu,
    "geglu_tanh": gelu_tanh,
}


class MLP(nn.Module):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        self.gate = (
            nn.Linear(config.embed_dim, config.mlp_width, bias=config.has_mlp_bias)
            if config.mlp in GATED_MLPS
            else None
        )
        self.up = nn.Linear(config.embed_dim, config.mlp_width, bias=config.has_mlp_bias)
        self.down = nn.Linear(config.mlp_width, config.embed_dim, bias=config.has_mlp_bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "batch seq embed"]) -> Float[Tensor, "batch seq embed"]:
        """Transform each position on its own."""
        if self.gate is None:
            hidden = self.activation(self.up(x))
        else:
            hidden = self.activation(self.gate(x)) * self.up(x)
        out: Tensor = self.dropout(self.down(hidden))
        return out

"""How a token knows its place: sinusoidal, learned, rotary, or not at all.

Sinusoidal and learned positions are added to the token embedding once; rotary positions turn the
queries and keys inside every attention.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lit_gpt_kit.model.config import GPTConfig


def sinusoidal_table(num_positions: int, dim: int) -> Float[Tensor, "num_positions dim"]:
    """Row p holds sin(p / 10000^(2i/dim)) at 2i and the cosine at 2i + 1.

    Source: Vaswani et al. 2017, section 3.5.
    """
    angles = _angles(num_positions, dim, base=10_000.0)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).float()


def _angles(num_positions: int, dim: int, base: float) -> Float[Tensor, "num_positions half"]:
    # float64, because position x frequency loses whole turns' worth of digits in float32; on the
    # CPU, because a network built on the meta device needs its tables all the same.
    float64: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    frequencies = base ** (-torch.arange(0, dim, 2, **float64) / dim)
    return torch.outer(torch.arange(num_positions, **float64), frequencies)


class SinusoidalPositions(nn.Module):
    """A fixed vector for each position, added to the token embedding."""

    table: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        table = sinusoidal_table(config.block_size, config.embed_dim)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Int[Tensor, "*batch seq"]) -> Float[Tensor, "*batch seq embed"]:
        """The vectors of `positions`."""
        return self.table[positions]


class LearnedPositions(nn.Embedding):
    """A trained vector for each position, added to the token embedding."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config.block_size, config.embed_dim)


class RotaryPositions(nn.Module):
    """Turns pairs of a head's numbers by an angle that grows with the position.

    The score of a query and a key then depends on the distance between them alone. Source: Su et
    al. 2021 (RoFormer), eq. 15, frequencies of eq. 5, with number i paired with number i + dim/2
    (the layout of GPT-NeoX and Llama) instead of its neighbour.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        angles = _angles(config.block_size, config.head_width, config.rope_theta)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(
        self, positions: Int[Tensor, "*batch seq"]
    ) -> tuple[Float[Tensor, "*batch seq half"], Float[Tensor, "*batch seq half"]]:
        """The cosines and sines of `positions`, made once for all layers."""
        return self.cos[positions], self.sin[positions]


def rotate(
    x: Float[Tensor, "batch heads seq dim"],
    cos: Float[Tensor, "*batch seq half"],
    sin: Float[Tensor, "*batch seq half"],
) -> Float[Tensor, "batch heads seq dim"]:
    """Turn each pair (x[i], x[i + dim/2]) by its angle."""
    if cos.ndim == 3:  # positions differ by row: make room for the heads
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    # In x's own dtype: the error is that of rounding x, and half the bytes move under bf16.
    cos, sin = cos.type_as(x), sin.type_as(x)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

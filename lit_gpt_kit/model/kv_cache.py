"""The keys and values of the tokens already read, so that generation never reads them twice."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_gpt_kit.model.config import GPTConfig


class KVCache:
    """Room for `max_len` tokens in each row, allocated once; rows may be of different lengths.

    Token j of row b lies at slot j whatever the other rows hold, so prompts of different lengths
    are right-padded: what lies beyond a row's length is never attended to and is overwritten when
    the row grows.

    Attributes:
        lengths: (batch,) how many tokens each row holds.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        max_len: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.num_layers, batch_size, config.kv_heads, max_len, config.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.max_len = max_len

    def positions(self, num_new: int) -> Int[Tensor, "batch num_new"]:
        """The places that the next `num_new` tokens of each row will take."""
        return self.lengths[:, None] + torch.arange(num_new, device=self.lengths.device)

    def visible(self, positions: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch 1 seq max_len"]:
        """Which slots the token at each position may attend to: itself and all before it."""
        slots = torch.arange(self.max_len, device=positions.device)
        return (slots <= positions[:, :, None]).unsqueeze(1)

    def write(
        self,
        layer: int,
        positions: Int[Tensor, "batch seq"],
        k: Float[Tensor, "batch kv_heads seq head"],
        v: Float[Tensor, "batch kv_heads seq head"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads max_len head"], Float[Tensor, "batch kv_heads max_len head"]
    ]:
        """Store one layer's new keys and values; returns all of that layer's."""
        keys, values = self.keys[layer], self.values[layer]
        index = positions[:, None, :, None].expand_as(k)
        keys.scatter_(2, index, k.to(keys.dtype))
        values.scatter_(2, index, v.to(values.dtype))
        return keys, values

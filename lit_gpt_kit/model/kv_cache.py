"""The keys and values of the tokens already read, so that generation never reads them twice."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_gpt_kit.model.config import AttentionKind, GPTConfig
from lit_gpt_kit.model.view import View, view_row


class KVCache:
    """Room for `max_len` tokens in each row, allocated once; rows may be of different lengths.

    Token j of row b lies at slot j whatever the other rows hold, so prompts of different lengths
    are right-padded; padding is written to one slot more, which nobody reads. A `window` layer
    keeps only what its window can still see: its slots are a ring, and token j lies at j modulo
    its size.

    Args:
        config: the network's.
        batch_size: number of rows.
        max_len: most tokens that a row will hold.
        max_new: most tokens read at once; a ring has room for them beside its window, so that the
            first of them still sees all of its own.
        device: where keys and values are kept.
        dtype: their type.

    Attributes:
        lengths: how many tokens each row holds. Lowering one forgets the latest tokens of a row,
            at most the `max_new` read last.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        max_len: int,
        max_new: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.window = config.sliding_window
        self.lengths = [0] * batch_size
        ring = max_len
        if self.window is not None:
            ring = min(max_len, self.window + (max_len if max_new is None else max_new) - 1)
        self.sizes: dict[AttentionKind, int] = {"full": max_len, "window": ring}
        self.keys, self.values = [], []
        for layer in range(config.num_layers):
            size = self.sizes[config.attention_kind(layer)]
            shape = (batch_size, config.kv_heads, size + 1, config.head_width)
            self.keys.append(torch.zeros(shape, device=device, dtype=dtype))
            self.values.append(torch.zeros(shape, device=device, dtype=dtype))
        self.device = torch.device(device)
        # The tokens themselves, for a network that looks at the one before each.
        self._ids = torch.zeros((batch_size, max_len + 1), dtype=torch.int64, device=device)

    def positions(self, num_new: int) -> Int[Tensor, "batch num_new"]:
        """The places that the next `num_new` tokens of each row will take."""
        starts = torch.tensor(self.lengths, device=self.device)
        return starts[:, None] + torch.arange(num_new, device=self.device)

    def last_ids(
        self, input_ids: Int[Tensor, "batch seq"]
    ) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """The last token that each row holds, and whether it holds none; remembers the new ones."""
        # Padding goes beyond its row's end, to where the next tokens will go.
        slots = self.positions(input_ids.shape[1]).clamp(max=self._ids.shape[1] - 1)
        last = self._ids.gather(1, (slots[:, :1] - 1).clamp(min=0))[:, 0]
        self._ids.scatter_(1, slots, input_ids)
        return last, slots[:, 0] == 0

    def view(
        self, kind: AttentionKind, positions: Int[Tensor, "batch seq"], counts: Sequence[int]
    ) -> View:
        """Where new tokens go, and what they see.

        Args:
            kind: of the layers that ask.
            positions: the places of the new tokens.
            counts: how many of them are no padding, for each row.
        """
        seq, size = positions.shape[1], self.sizes[kind]
        first = self.lengths[0] % size
        is_even = len(set(self.lengths)) == 1 and min(counts) == seq and first + seq <= size
        first_slot = first if is_even else None
        slots = positions if kind == "full" else positions % size
        if min(counts) < seq:
            steps = torch.arange(seq, device=self.device)
            is_real = steps < torch.tensor(counts, device=self.device)[:, None]
            slots = torch.where(is_real, slots, size)
        window = self.window if kind == "window" else None
        if not any(self.lengths):  # nothing older to see: the new tokens attend to each other
            return replace(
                view_row(seq, window, None, self.device), slots=slots, first_slot=first_slot
            )
        ends = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        num_slots = min(size, max(ends))
        sees_all = seq == 1 and min(ends) == max(ends) <= (window or size)
        if sees_all:
            return View(slots=slots, first_slot=first_slot, num_slots=num_slots, is_causal=False)
        # The token in a slot is the latest one that belongs there.
        last = torch.tensor(ends, device=self.device)[:, None] - 1
        held = last - (last - torch.arange(num_slots, device=self.device)) % size
        held, query = held[:, None, None, :], positions[:, None, :, None]
        mask = (held >= 0) & (held <= query)
        if window is not None:
            mask &= held > query - window
        return View(
            slots=slots, first_slot=first_slot, num_slots=num_slots, mask=mask, is_causal=False
        )

    def write(
        self,
        layer: int,
        view: View,
        k: Float[Tensor, "batch kv_heads seq head"],
        v: Float[Tensor, "batch kv_heads seq head"],
    ) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; returns those that the new tokens may see.

        Both are (batch, kv_heads, keys, head_dim); those of earlier tokens in the cache's type.
        """
        assert view.slots is not None
        keys, values = self.keys[layer], self.values[layer]
        if view.first_slot is not None:  # several times faster than a scatter
            end = view.first_slot + k.shape[2]
            keys[:, :, view.first_slot : end] = k
            values[:, :, view.first_slot : end] = v
        else:
            index = view.slots[:, None, :, None].expand_as(k)
            keys.scatter_(2, index, k.to(keys.dtype))
            values.scatter_(2, index, v.to(values.dtype))
        if view.num_slots is None:
            return k, v
        return keys[:, :, : view.num_slots], values[:, :, : view.num_slots]

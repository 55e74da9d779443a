"""What the tokens of one forward pass may see."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from lit_gpt_kit.model.flex import block_mask


@dataclass(frozen=True)
class View:
    """What the queries of a layer may see, and where its keys go; one for each kind of layer.

    Attributes:
        rotary: cosines and sines of the positions, where positions are rotary.
        mask: True where a query may see a key.
        blocks: the same in blocks, where FlexAttention reads it (flex.py).
        is_causal: without a mask, a query sees itself and what is before it; else everything.
        slots: (batch, seq) where the new tokens go in the cache.
        first_slot: where they go where that is the same, side by side, in every row.
        num_slots: how many slots of the cache are looked at; None: only the new tokens.
        token_ids: the tokens themselves, for layers that look their values up.
    """

    rotary: tuple[Tensor, Tensor] | None = None
    mask: Bool[Tensor, "#batch 1 seq keys"] | None = None
    blocks: BlockMask | None = None
    is_causal: bool = True
    slots: Int[Tensor, "batch seq"] | None = None
    first_slot: int | None = None
    num_slots: int | None = None
    token_ids: Int[Tensor, "batch seq"] | None = None


def view_row(
    seq: int,
    window: int | None,
    document_ids: Int[Tensor, "batch seq"] | None,
    device: torch.device,
    use_flex: bool = False,
) -> View:
    """What the tokens of whole rows see: themselves and those before.

    Args:
        seq: the rows' length.
        window: how many tokens each sees, itself among them; None for all.
        document_ids: which document each token belongs to; none sees another document.
        device: where the mask is made.
        use_flex: have FlexAttention read it.
    """
    # An exported graph is for rows of any length, so that this one's decides nothing there.
    if window is not None and not torch.compiler.is_exporting() and window >= seq:
        window = None
    if document_ids is None and window is None:
        return View()
    if use_flex:
        return View(blocks=block_mask(seq, window, document_ids, device), is_causal=False)
    distance = torch.arange(seq, device=device)
    distance = distance[:, None] - distance
    mask = distance >= 0
    if window is not None:
        mask &= distance < window
    mask = mask[None, None]
    if document_ids is not None:
        mask = mask & (document_ids[:, None, :, None] == document_ids[:, None, None, :])
    return View(mask=mask, is_causal=False)

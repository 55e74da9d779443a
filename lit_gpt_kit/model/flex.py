"""Attention over packed rows and windows that leaves out the blocks which nobody sees (CUDA).

A mask of (seq, seq) costs memory and time whatever it hides; torch's FlexAttention is given a rule
instead and skips the blocks that it hides whole. Source: Dong et al. 2024.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


def has_flex(device: torch.device) -> bool:
    """Whether the kernel is there: on a GPU, where Triton compiles it."""
    return device.type == "cuda" and find_spec("triton") is not None


def block_mask(
    seq: int,
    window: int | None,
    document_ids: Int[Tensor, "batch seq"] | None,
    device: torch.device,
) -> BlockMask:
    """What the tokens of whole rows see, in blocks; the arguments are those of `view_row`."""
    width = seq if window is None else window
    if document_ids is None:
        return create_block_mask(
            lambda row, head, query, key: (query >= key) & (query - key < width),
            *(None, None, seq, seq, device),
        )
    ids = document_ids
    return create_block_mask(
        lambda row, head, query, key: (
            (query >= key) & (query - key < width) & (ids[row, query] == ids[row, key])
        ),
        *(len(ids), None, seq, seq, device),
    )


def attend(
    q: Float[Tensor, "batch heads seq dim"],
    k: Float[Tensor, "batch kv_heads seq dim"],
    v: Float[Tensor, "batch kv_heads seq dim"],
    blocks: BlockMask,
    scale: float | None = None,
) -> Float[Tensor, "batch heads seq dim"]:
    """Scaled dot-product attention of what `blocks` lets each query see."""
    options = {"block_mask": blocks, "scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    out: Tensor = _kernel(q.device.type)(q, k, v, **options)
    return out


@cache
def _kernel(device_type: str) -> Any:
    # Uncompiled it makes all scores, as a plain mask would.
    return flex_attention if device_type == "cpu" else torch.compile(flex_attention)

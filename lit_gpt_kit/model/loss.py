"""The next-token loss."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
"""The target of a position on which no loss falls (PyTorch's own default)."""
MAX_LOGITS = 2**25
"""Most logits held at once: with their gradients, half a gigabyte. Fewer saves nothing beside the
gradient of a large head itself."""


def next_token_loss(
    hidden: Float[Tensor, "batch seq embed"],
    lm_head: nn.Module,
    targets: Int[Tensor, "batch seq"],
    max_logits: int = MAX_LOGITS,
) -> Float[Tensor, ""]:
    """Summed negative log-likelihood in nats: -sum log softmax(lm_head(hidden))[target].

    A sum, not a mean: what a step's loss is divided by is the business of whoever knows the whole
    step. The logits are made for a slice of the tokens at a time and made again in the backward
    pass, so that no more than `max_logits` of them (128 MiB in float32) ever exist; below that
    size nothing is sliced and nothing is done twice.

    Args:
        hidden: what the head reads.
        lm_head: the head, or a layer in its place that knows its `out_features`.
        targets: the token that follows each position, or IGNORE_INDEX.
        max_logits: most logits held at once.
    """
    flat, flat_targets = hidden.flatten(0, 1), targets.flatten()
    vocab_size: int = lm_head.out_features  # type: ignore[assignment]
    tokens_at_once = max(1, max_logits // vocab_size)
    if flat_targets.numel() <= tokens_at_once:
        return _summed_cross_entropy(flat, lm_head, flat_targets)
    total = torch.zeros((), device=hidden.device, dtype=torch.float32)
    parts = torch.split(flat, tokens_at_once), torch.split(flat_targets, tokens_at_once)
    for some_hidden, some_targets in zip(*parts, strict=True):
        loss = checkpoint(
            _summed_cross_entropy, some_hidden, lm_head, some_targets, use_reentrant=False
        )
        assert isinstance(loss, Tensor)
        total = total + loss
    return total


def _summed_cross_entropy(hidden: Tensor, lm_head: nn.Module, targets: Tensor) -> Tensor:
    logits = lm_head(hidden).float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")

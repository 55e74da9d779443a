"""Arithmetic of training: FLOPs a token, and what a GPU could do at most."""

import re

from lit_gpt_kit import GPTConfig
from lit_gpt_kit.model.size import count_parameters

DENSE_BF16_PEAKS = {
    # As their data sheets say, without sparsity, which doubles the figure of the brochure.
    r"NVIDIA A100.*": 312e12,
    r"NVIDIA H100 80GB HBM3": 989e12,  # SXM
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA H200": 989e12,
    r"NVIDIA B200": 2250e12,
    r"NVIDIA L4": 121e12,
    # With sums in float32, as torch computes.
    r"NVIDIA GeForce RTX 4090": 165e12,
}


def dense_bf16_peak(device_name: str) -> float | None:
    """FLOP/s of dense bfloat16 products at most; None for a device that is not in the table."""
    if " MIG " in device_name:
        return None  # a slice of a device has a share of its peak
    for pattern, peak in DENSE_BF16_PEAKS.items():
        if re.fullmatch(pattern, device_name):
            return peak
    return None


def flops_per_token(config: GPTConfig) -> int:
    """Forward and backward pass: 6 N + 12 L H Q T (Chowdhery et al. 2022, appendix B).

    N counts all parameters but position embeddings; L layers of H heads of width Q see T tokens.
    Attention is counted as if nothing were masked, and what is computed twice is counted once, as
    everybody does who reports an MFU.
    """
    positions = config.block_size * config.embed_dim if config.position == "learned" else 0
    attention = 12 * config.num_layers * config.num_heads * config.head_width * config.block_size
    return 6 * (count_parameters(config) - positions) + attention

"""Causal self-attention: multi-head, grouped-query and multi-query in one class."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.norm import RMSNorm
from lit_gpt_kit.model.positions import rotate


class CausalSelfAttention(nn.Module):
    """softmax(q k^T / sqrt(head_dim)) v, each token seeing itself and those before it.

    Source: Vaswani et al. 2017, eq. 1; fewer key heads than query heads: Ainslie et al. 2023;
    normalised queries and keys: Henry et al. 2020, with the RMS norm that current models use.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads, self.num_kv_heads = config.num_heads, config.kv_heads
        self.head_dim = config.head_width
        self.dropout_p = config.dropout
        q_dim, kv_dim = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.splits = [q_dim, kv_dim, kv_dim]
        # One matrix product for all three is faster than three.
        self.qkv = nn.Linear(config.embed_dim, q_dim + 2 * kv_dim, bias=config.use_bias)
        self.out = nn.Linear(q_dim, config.embed_dim, bias=config.use_bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.use_qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.use_qk_norm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch seq embed"],
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Bool[Tensor, "batch 1 seq keys"] | None = None,
        cache: KVCache | None = None,
        positions: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq embed"]:
        """Mix each position with those it may see.

        Args:
            x: the normalised residual stream.
            rotary: cosines and sines of the positions, where positions are rotary.
            mask: True where a query may see a key; None is plain causal attention.
            cache: keys and values of earlier tokens; the new ones are written into it.
            positions: the slots of the new tokens in the cache; needed with `cache`.
        """
        batch, seq, _ = x.shape
        q, k, v = self.qkv(x).split(self.splits, dim=-1)
        q = q.view(batch, seq, self.num_heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, seq, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = v.view(batch, seq, self.num_kv_heads, self.head_dim).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            assert positions is not None
            k, v = cache.write(self.layer, positions, k, v)
            k, v = k.type_as(q), v.type_as(q)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout_p if self.training else 0.0,
            is_causal=mask is None,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        out: Tensor = self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, seq, -1)))
        return out


def same_document_mask(
    document_ids: Int[Tensor, "batch seq"],
) -> Bool[Tensor, "batch 1 seq seq"]:
    """Causal attention that stops at document borders, for rows that hold several documents."""
    seq = document_ids.shape[1]
    causal = torch.ones(seq, seq, dtype=torch.bool, device=document_ids.device).tril()
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return (same & causal).unsqueeze(1)

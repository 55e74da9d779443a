"""Causal self-attention: multi-head, grouped-query and multi-query in one class."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.dropout import Dropout, drop
from lit_gpt_kit.model.flex import attend
from lit_gpt_kit.model.head import softcap
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.norm import RMSNorm
from lit_gpt_kit.model.positions import rotate
from lit_gpt_kit.model.value_embedding import ValueEmbedding
from lit_gpt_kit.model.view import View

MAX_SCORES = 2**23
"""Attention weights that may be kept for the backward pass: 16 MiB a layer in bfloat16."""


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
        self.scale = config.attention_scale
        self.softcap = config.attention_softcap
        q_dim, kv_dim = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.splits = [q_dim, kv_dim, kv_dim]
        # One matrix product for all three is faster than three.
        self.qkv = nn.Linear(config.embed_dim, sum(self.splits), bias=config.has_qkv_bias)
        self.out = nn.Linear(q_dim, config.embed_dim, bias=config.has_out_bias)
        self.value_embedding: ValueEmbedding | None = None
        if layer in config.value_embedding_layers:
            self.value_embedding = ValueEmbedding(config.padded_vocab_size, kv_dim)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        self.norms_all_heads = config.qk_norm_scope == "all_heads"
        if config.use_qk_norm:
            dims = (q_dim, kv_dim) if self.norms_all_heads else (self.head_dim, self.head_dim)
            self.q_norm, self.k_norm = (
                RMSNorm(dim, config.norm_eps, config.use_norm_offset) for dim in dims
            )
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch seq embed"],
        view: View = View(),  # noqa: B008
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq embed"]:
        """Mix each position with those it may see.

        Args:
            x: the normalised residual stream.
            view: what each position may see; plain causal attention by default.
            cache: keys and values of earlier tokens; the new ones are written into it.
        """
        batch, seq, _ = x.shape
        q, k, v = self.qkv(x).split(self.splits, dim=-1)
        if self.value_embedding is not None:
            assert view.token_ids is not None, "a layer with value embeddings looks tokens up"
            v = v + self.value_embedding(view.token_ids).type_as(v)
        if self.norms_all_heads:
            q, k = self._normalize(q, k)
        q = q.view(batch, seq, self.num_heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, seq, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = v.view(batch, seq, self.num_kv_heads, self.head_dim).transpose(1, 2)
        if not self.norms_all_heads:
            q, k = self._normalize(q, k)
        if view.rotary is not None:
            q, k = rotate(q, *view.rotary), rotate(k, *view.rotary)
        if cache is not None:
            k, v = cache.write(self.layer, view, k, v)
        mixed = self._mix(q.type_as(k), k, v, view).type_as(x)
        out: Tensor = self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, seq, -1)))
        return out

    def _normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if self.q_norm is None or self.k_norm is None:
            return q, k
        return self.q_norm(q), self.k_norm(k)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        if view.blocks is not None:
            return attend(q, k, v, view.blocks, self.scale)
        is_causal = view.is_causal and view.mask is None
        drops = self.dropout_p if self.training else 0.0
        if self.softcap is not None or _is_quicker_spelled_out(q, k, drops):
            return self._mix_spelled_out(q, k, v, view.mask, is_causal)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=view.mask,
            dropout_p=drops,
            is_causal=is_causal,
            scale=self.scale,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )

    def _mix_spelled_out(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        """The same without torch's kernel, which does not cap scores."""
        batch, _, seq, dim = q.shape
        num_keys, scale = k.shape[2], self.head_dim**-0.5 if self.scale is None else self.scale
        # The queries that share a key head lie side by side: one product, and no key is copied.
        heads, sharing = self.num_kv_heads, self.num_heads // self.num_kv_heads
        if torch.compiler.is_exporting():  # where rows of any length may not change their shape
            k, v = k.repeat_interleave(sharing, dim=1), v.repeat_interleave(sharing, dim=1)
            heads, sharing = self.num_heads, 1
        grouped = (q * scale).contiguous().view(batch, heads, sharing * seq, dim)
        scores = (grouped @ k.transpose(-2, -1)).view(batch, heads, sharing, seq, num_keys)
        if is_causal:
            mask = torch.ones(seq, num_keys, dtype=torch.bool, device=q.device).tril()
        elif mask is not None:
            mask = mask[:, None]
        if self.softcap is not None:
            scores = softcap(scores.float(), self.softcap)
        if mask is not None:
            # Added, not filled in: the backward pass then has nothing to do.
            scores = scores + scores.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        weights = drop(scores.softmax(dim=-1).type_as(q), self.dropout_p, self.training)
        mixed = weights.view(batch, heads, sharing * seq, num_keys) @ v
        return mixed.view(batch, self.num_heads, seq, dim)


def _is_quicker_spelled_out(q: Tensor, k: Tensor, dropout_p: float) -> bool:
    """Training on a CPU, whose kernel drops nothing, and takes long for bfloat16's backward."""
    if not (q.requires_grad and q.device.type == "cpu"):
        return False
    if dropout_p:
        return True
    return q.dtype == torch.bfloat16 and q.shape[:-1].numel() * k.shape[2] <= MAX_SCORES

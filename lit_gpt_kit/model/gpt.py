"""A GPT: token ids in, a score for every possible next token out. Read this file first.

    tokens -> embedding (+ positions) -> num_layers x Block -> norm -> head -> logits

Each Block adds what attention gathered from earlier tokens, then what the MLP made of it, to a
residual stream of width `embed_dim` (pre-norm, as GPT-2).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.attention import CausalSelfAttention, same_document_mask
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.mlp import MLP
from lit_gpt_kit.model.norm import build_norm
from lit_gpt_kit.model.positions import LearnedPositions, RotaryPositions, SinusoidalPositions


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = CausalSelfAttention(config, layer)
        self.mlp_norm = build_norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Float[Tensor, "batch seq embed"],
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
    ) -> Float[Tensor, "batch seq embed"]:
        """The arguments are those of `CausalSelfAttention.forward`."""
        x = x + self.attention(self.attention_norm(x), rotary, mask, cache, positions)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class GPT(nn.Module):
    """The network of `config`, with fresh weights.

    Raises:
        InputError: `config.vocab_size` is not given.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise InputError("vocab_size is not given; a GPT needs GPTConfig(vocab_size=...)")
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        self.position_embedding: LearnedPositions | SinusoidalPositions | None = None
        self.rotary: RotaryPositions | None = None
        if config.position == "learned":
            self.position_embedding = LearnedPositions(config)
        elif config.position == "sinusoidal":
            self.position_embedding = SinusoidalPositions(config)
        elif config.position == "rotary":
            self.rotary = RotaryPositions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = build_norm(config)
        self.lm_head = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        self.tie_weights()
        self.init_weights()

    def tie_weights(self) -> None:
        """Make the head the token embedding, where they are tied; again after assigning weights."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.token_embedding.weight

    @torch.no_grad()
    def init_weights(self) -> None:
        """GPT-2's initialisation (Radford et al. 2019, section 2.3).

        All weights are normal with `init_std`, all biases zero. A residual stream that 2 x
        num_layers matrices write into would grow with depth, so those start sqrt(2 x num_layers)
        times smaller, or at zero (`init: zero_projection`).
        """
        std = self.config.init_std
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.modules():
            projections = (block.attention.out, block.mlp.down) if isinstance(block, Block) else ()
            for projection in projections:
                if self.config.init == "zero_projection":
                    nn.init.zeros_(projection.weight)
                else:
                    nn.init.normal_(projection.weight, std=std / (2 * len(self.blocks)) ** 0.5)

    def hidden_states(
        self,
        input_ids: Int[Tensor, "batch seq"],
        document_ids: Int[Tensor, "batch seq"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq embed"]:
        """What the head reads: the residual stream after the last norm.

        Args:
            input_ids: token ids.
            document_ids: with packed rows, which document each token belongs to, all tokens of
                one side by side; no token then attends to another document, and each document's
                positions start at 0. Not together with a cache.
            cache: keys and values of earlier tokens. `input_ids` continue them, and the cache's
                lengths grow by `seq`.

        Raises:
            InputError: the row is longer than the block.
        """
        seq = input_ids.shape[1]
        if seq > self.config.block_size:
            raise InputError(
                f"a row of {seq} tokens is longer than block_size={self.config.block_size}"
            )
        mask = None
        if cache is not None:
            positions = cache.positions(seq)
            mask = cache.visible(positions)
        elif document_ids is not None:
            positions = _positions_in_document(document_ids)
            mask = same_document_mask(document_ids)
        else:
            positions = torch.arange(seq, device=input_ids.device)

        x = self.token_embedding(input_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        x = self.dropout(x)
        rotary = None if self.rotary is None else self.rotary(positions)
        slots = positions if cache is not None else None
        for block in self.blocks:
            x = block(x, rotary, mask, cache, slots)
        if cache is not None:
            cache.lengths += seq
        hidden: Tensor = self.norm(x)
        return hidden

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        document_ids: Int[Tensor, "batch seq"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Scores (logits) of the token that follows each position; arguments of hidden_states."""
        logits: Tensor = self.lm_head(self.hidden_states(input_ids, document_ids, cache))
        return logits

    def num_parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())


def _positions_in_document(document_ids: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    index = torch.arange(document_ids.shape[1], device=document_ids.device)
    is_start = torch.ones_like(document_ids, dtype=torch.bool)
    is_start[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index - torch.where(is_start, index, 0).cummax(dim=1).values

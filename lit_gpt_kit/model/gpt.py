"""A GPT: token ids in, a score for every possible next token out. Read this file first.

    tokens -> embedding (+ positions) -> num_layers x Block -> norm -> head -> logits

Each Block adds what attention gathered from earlier tokens, then what the MLP made of it, to a
residual stream of width `embed_dim` (pre-norm, as GPT-2).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.attention import CausalSelfAttention
from lit_gpt_kit.model.config import AttentionKind, GPTConfig
from lit_gpt_kit.model.dropout import Dropout
from lit_gpt_kit.model.experts import MixtureOfExperts
from lit_gpt_kit.model.flex import has_flex
from lit_gpt_kit.model.head import Head
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.mlp import MLP
from lit_gpt_kit.model.norm import build_norm
from lit_gpt_kit.model.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from lit_gpt_kit.model.token_shift import TokenShift
from lit_gpt_kit.model.value_embedding import ValueEmbedding
from lit_gpt_kit.model.view import View, view_row


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)).

    `norm_placement` moves the norms behind attention and MLP or doubles them, and with
    `use_parallel_residual` the MLP does not wait for the attention.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        has_pre, has_post = config.norm_placement != "post", config.norm_placement != "pre"
        self.is_parallel = config.use_parallel_residual
        self.attention_norm = build_norm(config) if has_pre else nn.Identity()
        self.attention = CausalSelfAttention(config, layer)
        self.attention_post_norm = build_norm(config) if has_post else nn.Identity()
        self.mlp_norm = build_norm(config) if has_pre else nn.Identity()
        self.mlp = MixtureOfExperts(config) if config.has_experts(layer) else MLP(config)
        self.mlp_post_norm = build_norm(config) if has_post else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch seq embed"],
        view: View = View(),  # noqa: B008
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq embed"]:
        """The arguments are those of `CausalSelfAttention.forward`."""
        gathered = self.attention(self.attention_norm(x), view, cache)
        attended = x + self.attention_post_norm(gathered)
        made = self.mlp(self.mlp_norm(x if self.is_parallel else attended))
        out: Tensor = attended + self.mlp_post_norm(made)
        return out


BlockRunner = Callable[[nn.Module, Tensor, View, KVCache | None], Tensor]


def run_once(block: nn.Module, x: Tensor, view: View, cache: KVCache | None) -> Tensor:
    """The plain way to run a block."""
    out: Tensor = block(x, view, cache)
    return out


class GPT(nn.Module):
    """The network of `config`, with fresh weights.

    Args:
        config: its shape.
        initialize: draw the weights; not needed where others are loaded.

    Raises:
        InputError: `config.vocab_size` is not given.
    """

    def __init__(self, config: GPTConfig, initialize: bool = True) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise InputError("vocab_size is not given; a GPT needs GPTConfig(vocab_size=...)")
        self.config, num_rows = config, config.padded_vocab_size
        # Drawing numbers for the meta device makes torch import its compiler, a second's work.
        undrawn = None if initialize else torch.empty(num_rows, config.embed_dim)
        self.token_embedding = nn.Embedding(num_rows, config.embed_dim, _weight=undrawn)
        self.position_embedding: LearnedPositions | SinusoidalPositions | None = None
        self.rotary: RotaryPositions | None = None
        self.window_rotary: RotaryPositions | None = None
        if config.position == "learned":
            self.position_embedding = LearnedPositions(config, initialize)
        elif config.position == "sinusoidal":
            self.position_embedding = SinusoidalPositions(config)
        elif config.position == "rotary":
            self.rotary = RotaryPositions(config, config.rope_theta, config.rope_scaling)
            if config.window_rope_theta is not None:
                self.window_rotary = RotaryPositions(config, config.window_rope_theta)
        self.token_shift = TokenShift(config.embed_dim) if config.use_token_shift else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = build_norm(config)
        self.lm_head = Head(config.embed_dim, num_rows, config.logit_softcap)
        self.run_block: BlockRunner = run_once  # execution.py knows other ways
        self.tie_weights()
        if initialize:
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
            elif isinstance(module, ValueEmbedding):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, MixtureOfExperts):
                nn.init.normal_(module.gate, std=std)
                nn.init.normal_(module.up, std=std)
        for block in self.modules():
            if not isinstance(block, Block):
                continue
            mlp = block.mlp
            down = mlp.down if isinstance(mlp, MixtureOfExperts) else mlp.down.weight
            for projection in (block.attention.out.weight, down):
                if self.config.init == "zero_projection":
                    nn.init.zeros_(projection)
                else:
                    nn.init.normal_(projection, std=std / (2 * len(self.blocks)) ** 0.5)

    def set_dropout(self, probability: float) -> None:
        """Drop activations in training with another probability."""
        self.config = replace(self.config, dropout=probability)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            elif isinstance(module, CausalSelfAttention):
                module.dropout_p = probability

    def hidden_states(
        self,
        input_ids: Int[Tensor, "batch seq"],
        document_ids: Int[Tensor, "batch seq"] | None = None,
        cache: KVCache | None = None,
        counts: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch seq embed"]:
        """What the head reads: the residual stream after the last norm.

        Args:
            input_ids: token ids.
            document_ids: with packed rows, which document each token belongs to, all tokens of
                one side by side; no token then attends to another document, and each document's
                positions start at 0. Not together with a cache.
            cache: keys and values of earlier tokens. `input_ids` continue them, and the cache's
                lengths grow.
            counts: with a cache, how many tokens of each row are no padding; padding comes last.

        Raises:
            InputError: the row is longer than the block.
        """
        seq = input_ids.shape[1]
        if seq > self.config.block_size:
            raise InputError(
                f"a row of {seq} tokens is longer than block_size={self.config.block_size}"
            )
        if counts is None:
            # Only a cache asks; to count the rows would fix their number in an exported graph.
            counts = [] if cache is None else [seq] * len(input_ids)
        if cache is not None:
            positions = cache.positions(seq)
            if min(counts) < seq:
                # Padding stands where its row's last token does: it may lie beyond the last
                # position there is, and longrope must not take the row for a longer one.
                ends = [max(1, old + new) for old, new in zip(cache.lengths, counts, strict=True)]
                positions = positions.minimum(
                    torch.tensor(ends, device=positions.device)[:, None] - 1
                )
        elif document_ids is not None:
            positions = _positions_in_document(document_ids)
        else:
            positions = torch.arange(seq, device=input_ids.device)
        num_positions = (
            seq if cache is None else min(max(cache.lengths) + seq, self.config.block_size)
        )
        views = {
            kind: self._view(kind, positions, num_positions, document_ids, cache, counts)
            for kind in dict.fromkeys(self.config.attention_pattern)
        }
        if self.config.value_embedding_layers:
            views = {kind: replace(view, token_ids=input_ids) for kind, view in views.items()}

        x = self.token_embedding(input_ids)
        if self.config.scale_embeddings:
            # Rounded to the weights' own type first, as the networks that do this were trained.
            x = x * torch.tensor(self.config.embed_dim**0.5, dtype=x.dtype).item()
        if self.token_shift is not None:
            x = self.token_shift(x, self._embeddings_before(x, input_ids, document_ids, cache))
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = self.run_block(block, x, views[self.config.attention_kind(layer)], cache)
        if cache is not None:
            cache.lengths = [old + new for old, new in zip(cache.lengths, counts, strict=True)]
        hidden: Tensor = self.norm(x)
        return hidden

    def _embeddings_before(
        self,
        x: Tensor,
        input_ids: Tensor,
        document_ids: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        """The embedding of the token before each, zero where there is none."""
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        if document_ids is not None:
            is_start = document_ids[:, 1:] != document_ids[:, :-1]
            before[:, 1:].masked_fill_(is_start[..., None], 0.0)
        if cache is not None:
            last_ids, is_first = cache.last_ids(input_ids)
            before[:, 0] = self.token_embedding(last_ids).masked_fill(is_first[:, None], 0.0)
        return before

    def _view(
        self,
        kind: AttentionKind,
        positions: Tensor,
        num_positions: int,
        document_ids: Tensor | None,
        cache: KVCache | None,
        counts: Sequence[int],
    ) -> View:
        window = self.config.sliding_window if kind == "window" else None
        if cache is None:
            use_flex = self._can_use_flex(positions.device)
            view = view_row(positions.shape[-1], window, document_ids, positions.device, use_flex)
        else:
            view = cache.view(kind, positions, counts)
        is_other = kind == "window" and self.window_rotary is not None
        rotary = self.window_rotary if is_other else self.rotary
        return view if rotary is None else replace(view, rotary=rotary(positions, num_positions))

    def _can_use_flex(self, device: torch.device) -> bool:
        """FlexAttention drops no weights, and its scores are not capped here."""
        drops = self.training and self.config.dropout > 0
        is_plain = self.config.attention_softcap is None and not drops
        return is_plain and has_flex(device) and not torch.compiler.is_exporting()

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        document_ids: Int[Tensor, "batch seq"] | None = None,
        cache: KVCache | None = None,
        counts: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Scores (logits) of the token that follows each position; arguments of hidden_states."""
        logits: Tensor = self.lm_head(self.hidden_states(input_ids, document_ids, cache, counts))
        return logits

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of what flows through it; weights may be kept in a smaller one."""
        return self.norm.weight.dtype

    def num_parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())


def _positions_in_document(document_ids: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    index = torch.arange(document_ids.shape[1], device=document_ids.device)
    is_start = torch.ones_like(document_ids, dtype=torch.bool)
    is_start[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index - torch.where(is_start, index, 0).cummax(dim=1).values

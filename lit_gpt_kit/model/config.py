"""GPTConfig: every number and closed choice that fixes the network."""

from dataclasses import dataclass
from typing import Literal, get_args

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config_checks import (
    check_choice,
    check_count,
    check_positive,
    check_shapes,
)

PositionKind = Literal["sinusoidal", "learned", "rotary", "none"]
NormKind = Literal["layernorm", "rmsnorm"]
MLPKind = Literal["gelu", "gelu_tanh", "swiglu", "geglu", "geglu_tanh", "relu2"]
InitKind = Literal["gpt2", "zero_projection"]
NormPlacement = Literal["pre", "post", "both"]
QKNormScope = Literal["head", "all_heads"]
AttentionKind = Literal["full", "window"]
RopeScalingKind = Literal["linear", "llama3", "yarn", "longrope"]

GATED_MLPS = frozenset({"swiglu", "geglu", "geglu_tanh"})


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are changed so that a network sees further than it first learned."""

    kind: RopeScalingKind
    """linear: all slower by `factor` (Chen et al. 2023); llama3: only the slow ones (Llama 3.1);
    yarn: a ramp between the two (Peng et al. 2023); longrope: a factor for each frequency, others
    for texts beyond `original_block_size` (Ding et al. 2024)."""
    factor: float = 1.0
    """How many times slower; for longrope, how much longer the new block is."""
    original_block_size: int = 8192
    """The block that the network was first trained on."""
    low_frequency_factor: float = 1.0
    """llama3: waves longer than the original block divided by this are slowed down in full."""
    high_frequency_factor: float = 4.0
    """llama3: waves shorter than the original block divided by this are left as they are."""
    beta_fast: float = 32.0
    """yarn: frequencies that turn more often than this in the original block are left alone."""
    beta_slow: float = 1.0
    """yarn: frequencies that turn less often than this are slowed down in full."""
    truncate: bool = True
    """yarn: the ramp begins and ends at whole frequencies."""
    attention_factor: float | None = None
    """yarn and longrope: cosines and sines are multiplied by this; by default what the kind's
    paper derives from `factor`."""
    short_factors: tuple[float, ...] = ()
    """longrope: the divisor of each frequency for texts within the original block."""
    long_factors: tuple[float, ...] = ()
    """longrope: the divisor of each frequency for longer texts."""

    def __post_init__(self) -> None:
        """Refuse a kind that is none, and factors that nothing can be divided by.

        Raises:
            InputError: naming the value.
        """
        check_choice("rope_scaling.kind", self.kind, get_args(RopeScalingKind))
        for name in ("short_factors", "long_factors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            for number, factor in enumerate(getattr(self, name)):
                check_positive(f"rope_scaling.{name}[{number}]", factor)
        for name in ("factor", "original_block_size", "low_frequency_factor",
                     "high_frequency_factor", "beta_fast", "beta_slow"):  # fmt: skip
            check_positive(f"rope_scaling.{name}", getattr(self, name))
        if self.attention_factor is not None:
            check_positive("rope_scaling.attention_factor", self.attention_factor)


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2 small's (Radford et al. 2019)."""

    vocab_size: int | None = None
    """Number of token ids. Left out, it is the tokenizer's."""
    block_size: int = 1024
    """Longest row of tokens the network sees at once."""
    num_layers: int = 12
    """Number of transformer blocks."""
    num_heads: int = 12
    """Number of query heads in each attention."""
    num_kv_heads: int | None = None
    """Number of key and value heads: `num_heads` (the default) is multi-head attention, 1 is
    multi-query, anything between is grouped-query attention."""
    head_dim: int | None = None
    """Width of one head; `embed_dim / num_heads` by default."""
    embed_dim: int = 768
    """Width of the residual stream."""
    mlp_dim: int | None = None
    """Hidden width of the MLP; 4 x `embed_dim` by default, 8/3 x for the gated kinds, which hold
    three matrices instead of two."""
    position: PositionKind = "learned"
    """How the network knows the order of tokens."""
    norm: NormKind = "layernorm"
    """Normalisation at each attention, at each MLP and before the head."""
    mlp: MLPKind = "gelu_tanh"
    """Activation of the MLP; swiglu and the geglus are gated."""
    use_bias: bool = True
    """Linear layers and layer norms have a bias."""
    use_qk_norm: bool = False
    """RMS-normalise queries and keys before they meet."""
    tie_embeddings: bool = True
    """The head that scores the next token is the token embedding itself."""
    dropout: float = 0.0
    """Probability of dropping an activation in training."""
    init: InitKind = "gpt2"
    """gpt2: normal weights, the matrices that write into the residual stream scaled down with
    depth; zero_projection: those matrices start at zero, so that each block starts as identity."""
    init_std: float = 0.02
    """Standard deviation of the normal initialisation."""
    norm_eps: float = 1e-5
    """Added to the variance in every normalisation."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    use_token_shift: bool = False
    """Each token's embedding also holds a learned share of the one before it."""
    value_embedding_layers: tuple[int, ...] = ()
    """The layers, counted from 0, whose values also hold a learned row for each token."""
    pad_vocab_to_multiple_of: int = 1
    """Embedding and head have rows for no token, so that their number is a multiple of this, such
    as 64, which matrix kernels like. They count in the softmax of training, which soon learns that
    they never follow; generation never chooses them."""
    end_token_id: int | None = None
    """The token that ends a document; generation stops there. Left out, it is the tokenizer's."""

    stop_token_ids: tuple[int, ...] = ()
    """Further tokens at which generation stops."""

    # ---- what the pretrained families need beyond ----

    use_qkv_bias: bool | None = None
    """The projections to queries, keys and values have a bias; by default as `use_bias` says."""
    use_out_bias: bool | None = None
    """The projection out of the attention has a bias; by default as `use_bias` says."""
    use_mlp_bias: bool | None = None
    """The MLP's layers have a bias; by default as `use_bias` says."""
    use_parallel_residual: bool = False
    """Attention and MLP read the same residual stream, side by side (GPT-NeoX)."""
    norm_placement: NormPlacement = "pre"
    """pre: attention and MLP read a normalised stream; post: what they write is normalised
    (OLMo 2); both (Gemma 2)."""
    use_norm_offset: bool = False
    """RMS norms scale by 1 + weight, so that a weight of zero changes nothing (Gemma)."""
    qk_norm_scope: QKNormScope = "head"
    """Queries and keys are normalised for each head alone, or over all heads at once (OLMo 2)."""
    scale_embeddings: bool = False
    """Token embeddings are multiplied by sqrt(embed_dim) (Vaswani et al. 2017, section 3.4)."""
    attention_scale: float | None = None
    """What the products of queries and keys are multiplied by; 1 / sqrt(head_dim) by default."""
    attention_softcap: float | None = None
    """Attention scores are kept within this by cap * tanh(score / cap) (Gemma 2)."""
    logit_softcap: float | None = None
    """Logits are kept within this likewise."""
    rotary_fraction: float = 1.0
    """The share of each head that rotary positions turn; the rest has no position (GPT-NeoX)."""
    rope_scaling: RopeScaling | None = None
    """How rotary frequencies are stretched for a longer block."""
    attention_pattern: tuple[AttentionKind, ...] = ("full",)
    """Which tokens the layers see, repeated over them: all before it, or a sliding window."""
    sliding_window: int | None = None
    """How many tokens a `window` layer sees, the token itself among them."""
    window_rope_theta: float | None = None
    """Base of the rotary frequencies, unscaled, in `window` layers where it differs (Gemma 3)."""
    num_experts: int | None = None
    """Each MLP is a mixture of this many; a router sends each token to some of them."""
    num_active_experts: int = 2
    """The number of experts that a token is sent to."""
    expert_dim: int | None = None
    """Hidden width of an expert; `mlp_dim` by default."""
    normalize_expert_weights: bool = True
    """The weights of a token's chosen experts sum to 1."""
    dense_layers: tuple[int, ...] = ()
    """The layers, counted from 0, whose MLP is a plain one all the same."""

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have.

        Raises:
            InputError: naming the field, its value and the rule.
        """
        # From YAML and checkpoints come lists and mappings.
        for name in ("stop_token_ids", "attention_pattern", "dense_layers",
                     "value_embedding_layers"):  # fmt: skip
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        for name in ("vocab_size", "block_size", "num_layers", "num_heads", "num_kv_heads",
                     "head_dim", "embed_dim", "mlp_dim", "sliding_window", "num_experts",
                     "num_active_experts", "expert_dim",
                     "pad_vocab_to_multiple_of"):  # fmt: skip
            if not self._is_left_out(name):
                check_count(name, getattr(self, name))
        for name in ("norm_eps", "rope_theta", "attention_scale", "attention_softcap",
                     "logit_softcap", "window_rope_theta"):  # fmt: skip
            if not self._is_left_out(name):
                check_positive(name, getattr(self, name))
        choices = (("position", PositionKind), ("norm", NormKind), ("mlp", MLPKind),
                   ("init", InitKind), ("norm_placement", NormPlacement),
                   ("qk_norm_scope", QKNormScope))  # fmt: skip
        for name, kinds in choices:
            check_choice(name, getattr(self, name), get_args(kinds))
        for kind in self.attention_pattern:
            check_choice("attention_pattern", kind, get_args(AttentionKind))
        if self.num_experts is not None and self.mlp not in GATED_MLPS:
            gated = ", ".join(sorted(GATED_MLPS))
            raise InputError(f"mlp='{self.mlp}' has no gate; experts need one of {gated}")
        check_shapes(self)

    def _is_left_out(self, name: str) -> bool:
        """Something else decides this field, which is None by default."""
        return getattr(self, name) is None and getattr(GPTConfig, name) is None

    def attention_kind(self, layer: int) -> AttentionKind:
        """What layer number `layer` sees."""
        return self.attention_pattern[layer % len(self.attention_pattern)]

    def has_experts(self, layer: int) -> bool:
        """The MLP of layer number `layer` is a mixture of experts."""
        return self.num_experts is not None and layer not in self.dense_layers

    @property
    def padded_vocab_size(self) -> int:
        """Number of rows of the embedding and the head.

        Raises:
            InputError: `vocab_size` is not given.
        """
        if self.vocab_size is None:
            raise InputError("vocab_size is not given; without it a GPT has no size")
        multiple = self.pad_vocab_to_multiple_of
        return -(-self.vocab_size // multiple) * multiple

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads, the default filled in."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width of one head, the default filled in."""
        return self.embed_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def rotary_width(self) -> int:
        """How many numbers of a head rotary positions turn."""
        return int(self.head_width * self.rotary_fraction)

    @property
    def expert_width(self) -> int:
        """Hidden width of an expert, the default filled in."""
        return self.mlp_width if self.expert_dim is None else self.expert_dim

    @property
    def has_qkv_bias(self) -> bool:
        """The projections to queries, keys and values have a bias, the default filled in."""
        return self.use_bias if self.use_qkv_bias is None else self.use_qkv_bias

    @property
    def has_out_bias(self) -> bool:
        """The projection out of the attention has a bias, the default filled in."""
        return self.use_bias if self.use_out_bias is None else self.use_out_bias

    @property
    def has_mlp_bias(self) -> bool:
        """The MLP's layers have a bias, the default filled in."""
        return self.use_bias if self.use_mlp_bias is None else self.use_mlp_bias

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP, the default filled in.

        The gated default is rounded up to a multiple of 64, which matrix kernels like.
        """
        if self.mlp_dim is not None:
            return self.mlp_dim
        if self.mlp in GATED_MLPS:
            return -(-8 * self.embed_dim // 3 // 64) * 64
        return 4 * self.embed_dim

"""GPTConfig: every number and closed choice that fixes the network."""

from dataclasses import dataclass
from typing import Literal, get_args

from lit_gpt_kit.errors import InputError, did_you_mean

PositionKind = Literal["sinusoidal", "learned", "rotary", "none"]
NormKind = Literal["layernorm", "rmsnorm"]
MLPKind = Literal["gelu", "gelu_tanh", "swiglu", "geglu", "relu2"]
InitKind = Literal["gpt2", "zero_projection"]

GATED_MLPS = frozenset({"swiglu", "geglu"})


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
    """Normalisation before each attention, before each MLP and before the head."""
    mlp: MLPKind = "gelu_tanh"
    """Activation of the MLP; swiglu and geglu are gated."""
    use_bias: bool = True
    """Linear layers and layer norms have a bias."""
    use_qk_norm: bool = False
    """RMS-normalise queries and keys of each head before they meet."""
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
    end_token_id: int | None = None
    """The token that ends a document; generation stops there. Left out, it is the tokenizer's."""

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have.

        Raises:
            InputError: naming the field, its value and the rule.
        """
        for name in ("vocab_size", "block_size", "num_layers", "num_heads", "num_kv_heads",
                     "head_dim", "embed_dim", "mlp_dim"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        choices = (("position", PositionKind), ("norm", NormKind), ("mlp", MLPKind),
                   ("init", InitKind))  # fmt: skip
        for name, kinds in choices:
            value = getattr(self, name)
            if value not in get_args(kinds):
                raise InputError(
                    f"{name}='{value}' is no {name}{did_you_mean(value, get_args(kinds))}"
                )
        if self.head_dim is None and self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}; "
                "change one of them or give head_dim"
            )
        if self.num_heads % self.kv_heads:
            raise InputError(
                f"num_heads={self.num_heads} is not divisible by num_kv_heads={self.kv_heads}; "
                "each key head serves the same number of query heads"
            )
        if self.position == "rotary" and self.head_width % 2:
            raise InputError(
                f"head_dim={self.head_width} is odd; rotary positions turn pairs of numbers, "
                "so it must be even"
            )
        if self.position == "sinusoidal" and self.embed_dim % 2:
            raise InputError(
                f"embed_dim={self.embed_dim} is odd; sinusoidal positions come in pairs of sine "
                "and cosine, so it must be even"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout={self.dropout} must be at least 0 and below 1")

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads, the default filled in."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width of one head, the default filled in."""
        return self.embed_dim // self.num_heads if self.head_dim is None else self.head_dim

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

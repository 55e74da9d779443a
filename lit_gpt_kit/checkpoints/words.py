"""The words of a Hugging Face config.json, read as GPTConfig fields and written back.

A `Translator` knows some of the words in both directions; a family (families.py) is made of them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.model.config import AttentionKind, GPTConfig, RopeScaling

Words = dict[str, Any]
Fields = dict[str, Any]

PLAIN_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu2": "relu2",
}
GATED_ACTIVATIONS = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "gelu": "geglu",
}
"""Hugging Face's name -> ours; the first name of each is the one written."""

LAYER_TYPES: dict[str, AttentionKind] = {"full_attention": "full", "sliding_attention": "window"}

ROPE_WORDS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_frequency_factor",
        "high_freq_factor": "high_frequency_factor",
        "original_max_position_embeddings": "original_block_size",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_block_size",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "truncate": "truncate",
    },
    "longrope": {
        "factor": "factor",
        "original_max_position_embeddings": "original_block_size",
        "attention_factor": "attention_factor",
        "short_factor": "short_factors",
        "long_factor": "long_factors",
    },
}
"""Kind of scaling -> its words -> RopeScaling's fields."""
REQUIRED_ROPE_WORDS = ("factor", "low_freq_factor", "high_freq_factor")
OLD_ROPE_KINDS = {"su": "longrope"}


@dataclass(frozen=True)
class Translator:
    """Some words of a config.json, and what they mean.

    Attributes:
        words: those it knows.
        read: GPTConfig fields from a config.json; other words may be looked at, too.
        write: the words from a GPTConfig.
    """

    words: frozenset[str]
    read: Callable[[Words], Fields]
    write: Callable[[GPTConfig], Words]


def activation(word: str, names: dict[str, str]) -> Translator:
    """The MLP's activation."""

    def read(words: Words) -> Fields:
        name = words[word]
        if name not in names:
            raise InputError(f"{word}={name!r} is not supported{did_you_mean(str(name), names)}")
        return {"mlp": names[name]}

    def write(config: GPTConfig) -> Words:
        return {word: next((name for name, ours in names.items() if ours == config.mlp), None)}

    return Translator(frozenset({word}), read, write)


def gemma_activation() -> Translator:
    """Gemma's first release says gelu and means its tanh approximation."""

    def read(words: Words) -> Fields:
        name = words.get("hidden_activation") or words.get("hidden_act")
        if name not in ("gelu", "gelu_pytorch_tanh"):
            raise InputError(f"hidden_activation={name!r} is not supported; known: gelu")
        return {"mlp": "geglu_tanh"}

    def write(config: GPTConfig) -> Words:
        return {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}

    return Translator(frozenset({"hidden_act", "hidden_activation"}), read, write)


def rotary(
    theta_word: str = "rope_theta",
    theta: float = 10_000.0,
    fraction_word: str | None = None,
    fraction: float = 1.0,
    window_theta_word: str | None = None,
    window_theta: float | None = None,
    kinds: Collection[str] = ("linear", "llama3", "yarn"),
) -> Translator:
    """Rotary positions, as transformers 4 spells them and as transformers 5 does.

    Args:
        theta_word: the base of the frequencies; `theta` where it is left out.
        theta: see there.
        fraction_word: the share of each head that is turned; `fraction` where it is left out.
        fraction: see there.
        window_theta_word: the base in window layers; `window_theta` where it is left out.
        window_theta: see there.
        kinds: the kinds of scaling that the family's code in transformers does right. Others share
            the words, but only Phi-3's forgets its cache when longrope changes all angles.
    """
    own = {word for word in (theta_word, fraction_word, window_theta_word) if word is not None}
    known = {*own, "rope_parameters", "rope_scaling", "original_max_position_embeddings"}

    def read(words: Words) -> Fields:
        said = dict(words.get("rope_parameters") or {})
        window = dict(said.pop("sliding_attention", None) or {})
        full = dict(said.pop("full_attention", None) or said)
        scaling = full | (words.get("rope_scaling") or {})
        fields: Fields = {"position": "rotary"}
        base = scaling.pop("rope_theta", words.get(theta_word, theta))
        fields["rope_theta"] = float(base)
        share = scaling.pop("partial_rotary_factor", words.get(fraction_word or "", fraction))
        fields["rotary_fraction"] = float(share)
        fields["rope_scaling"] = _read_scaling(scaling, words, kinds)
        if window_theta_word is not None:
            base = window.pop("rope_theta", words.get(window_theta_word, window_theta))
            fields["window_rope_theta"] = float(base)
            if _read_scaling(window, words, kinds) is not None:
                raise InputError("rope_parameters of sliding_attention are scaled; not supported")
        return fields

    def write(config: GPTConfig) -> Words:
        words: Words = {theta_word: config.rope_theta}
        if fraction_word is not None:
            words[fraction_word] = config.rotary_fraction
        if window_theta_word is not None:
            words[window_theta_word] = config.window_rope_theta
        scaling = config.rope_scaling
        if scaling is not None and scaling.kind in kinds:
            words["rope_scaling"] = _write_scaling(scaling)
            if scaling.kind == "longrope":
                words["original_max_position_embeddings"] = scaling.original_block_size
        return words

    return Translator(frozenset(known), read, write)


def _read_scaling(said: Words, words: Words, kinds: Collection[str]) -> RopeScaling | None:
    said = dict(said)
    kind = said.pop("rope_type", None) or said.pop("type", None)
    said.pop("type", None)  # old files name the kind twice
    kind = OLD_ROPE_KINDS.get(str(kind), kind)
    if kind in (None, "default"):
        return None
    if kind not in kinds:
        raise InputError(f"rope_type='{kind}' is not supported{did_you_mean(str(kind), kinds)}")
    known = ROPE_WORDS[kind]
    if "original_max_position_embeddings" in known:  # read as transformers reads it
        block = words.get("max_position_embeddings")
        inside = said.get("original_max_position_embeddings")
        # Phi-3 says it outside, which counts for more.
        original = words.get("original_max_position_embeddings") or inside or block
        said["original_max_position_embeddings"] = original
        if kind != "llama3" and not said.get("factor") and block and original:
            said["factor"] = block / original
    missing = [word for word in REQUIRED_ROPE_WORDS if word in known and said.get(word) is None]
    if missing:
        raise InputError(f"rope_scaling of kind '{kind}' has no '{missing[0]}'")
    unknown = sorted(word for word in said if word not in known and said[word] is not None)
    if unknown:
        raise InputError(f"rope_scaling word '{unknown[0]}' of kind '{kind}' is not supported")
    given: Fields = {
        known[word]: tuple(value) if isinstance(value, list) else value
        for word, value in said.items()
        if value is not None
    }
    given["kind"] = kind
    return RopeScaling(**given)


def _write_scaling(scaling: RopeScaling) -> Words:
    words: Words = {"rope_type": scaling.kind}
    for word, field in ROPE_WORDS[scaling.kind].items():
        value = getattr(scaling, field)
        if value is not None:
            words[word] = list(value) if isinstance(value, tuple) else value
    return words


def attention_bias(default: bool) -> Translator:
    """The projections into and out of the attention have a bias."""

    def read(words: Words) -> Fields:
        has_bias = words.get("attention_bias", default)
        return {"use_qkv_bias": has_bias, "use_out_bias": has_bias}

    def write(config: GPTConfig) -> Words:
        return {"attention_bias": config.has_qkv_bias}

    return Translator(frozenset({"attention_bias"}), read, write)


def mlp_bias() -> Translator:
    """The layers of the MLP have a bias."""

    def read(words: Words) -> Fields:
        return {"use_mlp_bias": words.get("mlp_bias", False)}

    def write(config: GPTConfig) -> Words:
        return {"mlp_bias": config.has_mlp_bias}

    return Translator(frozenset({"mlp_bias"}), read, write)


def one_window() -> Translator:
    """A sliding window in all layers, or none (Mistral)."""

    def read(words: Words) -> Fields:
        window = words.get("sliding_window")
        if window is None:
            return {}
        return {"sliding_window": window, "attention_pattern": ("window",)}

    def write(config: GPTConfig) -> Words:
        is_windowed = "window" in config.attention_pattern
        return {"sliding_window": config.sliding_window if is_windowed else None}

    return Translator(frozenset({"sliding_window"}), read, write)


def upper_windows() -> Translator:
    """A sliding window in the layers from `max_window_layers` on, where it is used (Qwen)."""

    def read(words: Words) -> Fields:
        if not words.get("use_sliding_window") or words.get("sliding_window") is None:
            return {}
        first: int = words["max_window_layers"]
        return _windows(words, words.get("layer_types"), lambda layer: layer >= first)

    def write(config: GPTConfig) -> Words:
        if "window" not in config.attention_pattern:
            return {"use_sliding_window": False, "sliding_window": None}
        return {
            "use_sliding_window": True,
            "sliding_window": config.sliding_window,
            "max_window_layers": 0,
            "layer_types": _layer_types(config),
        }

    known = {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}
    return Translator(frozenset(known), read, write)


def all_or_no_windows() -> Translator:
    """A sliding window in all layers, where it is used (Qwen's mixture of experts)."""

    def read(words: Words) -> Fields:
        if not words.get("use_sliding_window") or words.get("sliding_window") is None:
            return {}
        return {"sliding_window": words["sliding_window"], "attention_pattern": ("window",)}

    def write(config: GPTConfig) -> Words:
        is_windowed = "window" in config.attention_pattern
        return {"use_sliding_window": is_windowed, "sliding_window": config.sliding_window}

    known = {"use_sliding_window", "sliding_window", "max_window_layers"}
    return Translator(frozenset(known), read, write)


def alternating_windows(default_period: int) -> Translator:
    """Sliding windows, and every so many layers one that sees everything (Gemma 2 and 3)."""

    def read(words: Words) -> Fields:
        period = words.get("sliding_window_pattern") or default_period
        return _windows(words, words.get("layer_types"), lambda layer: (layer + 1) % period != 0)

    def write(config: GPTConfig) -> Words:
        return {"sliding_window": config.sliding_window, "layer_types": _layer_types(config)}

    known = {"sliding_window", "layer_types", "sliding_window_pattern"}
    return Translator(frozenset(known), read, write)


def _windows(
    words: Words, layer_types: list[str] | None, is_windowed: Callable[[int], bool]
) -> Fields:
    if layer_types is None:
        layer_types = [
            "sliding_attention" if is_windowed(layer) else "full_attention"
            for layer in range(words["num_hidden_layers"])
        ]
    for name in layer_types:
        if name not in LAYER_TYPES:
            raise InputError(f"layer_types has {name!r}{did_you_mean(name, LAYER_TYPES)}")
    pattern = tuple(LAYER_TYPES[name] for name in layer_types)
    return {"sliding_window": words["sliding_window"], "attention_pattern": pattern}


def _layer_types(config: GPTConfig) -> list[str]:
    names = {ours: theirs for theirs, ours in LAYER_TYPES.items()}
    return [names[config.attention_kind(layer)] for layer in range(config.num_layers)]


def query_scalar() -> Translator:
    """Attention scores are divided by the root of `query_pre_attn_scalar` (Gemma 2 and 3)."""

    def read(words: Words) -> Fields:
        return {"attention_scale": words["query_pre_attn_scalar"] ** -0.5}

    def write(config: GPTConfig) -> Words:
        scale = config.attention_scale
        scalar = config.head_width if scale is None else scale**-2
        nearest = round(scalar)  # the root and its inverse lose the last digits
        return {"query_pre_attn_scalar": nearest if abs(scalar - nearest) < 1e-6 else scalar}

    return Translator(frozenset({"query_pre_attn_scalar"}), read, write)


def sparse_layers() -> Translator:
    """Which layers have experts (Qwen's mixture of experts)."""

    def read(words: Words) -> Fields:
        step, plain = words.get("decoder_sparse_step", 1), words.get("mlp_only_layers") or []
        layers = range(words["num_hidden_layers"])
        dense = tuple(n for n in layers if n in plain or (n + 1) % step)
        return {"dense_layers": dense}

    def write(config: GPTConfig) -> Words:
        return {"decoder_sparse_step": 1, "mlp_only_layers": list(config.dense_layers)}

    return Translator(frozenset({"decoder_sparse_step", "mlp_only_layers"}), read, write)


def end_tokens() -> Translator:
    """The tokens at which generation stops: one, several or none."""

    def read(words: Words) -> Fields:
        said = words.get("eos_token_id")
        first, *others = said if isinstance(said, list) and said else [said]
        for token_id in (first, *others):
            if not (isinstance(token_id, int) or token_id is None):
                raise InputError(f"eos_token_id={token_id!r} is no number of a token")
        return {"end_token_id": first, "stop_token_ids": tuple(others)}

    def write(config: GPTConfig) -> Words:
        ids = [config.end_token_id, *config.stop_token_ids]
        return {"eos_token_id": ids if len(ids) > 1 else ids[0], "bos_token_id": None}

    return Translator(frozenset({"eos_token_id", "bos_token_id"}), read, write)

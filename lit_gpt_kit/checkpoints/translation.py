"""A Hugging Face config.json to a GPTConfig, and back."""

from dataclasses import asdict, replace
from typing import Any, get_args

from lit_gpt_kit.checkpoints.common_words import HARMLESS, REQUIRED_OF_ALL
from lit_gpt_kit.checkpoints.families import FAMILIES, Family
from lit_gpt_kit.checkpoints.words import Words
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GATED_MLPS, GPTConfig, MLPKind

NOT_OF_THE_NETWORK = frozenset({"init", "init_std", "dropout", "end_token_id", "stop_token_ids",
                                "pad_vocab_to_multiple_of"})  # fmt: skip
"""Fields that decide how a network is made, trained or read, not what it computes."""
BIASES = ("use_bias", "use_qkv_bias", "use_out_bias", "use_mlp_bias")
CONSEQUENCES = frozenset({"use_bias", "use_norm_offset", "qk_norm_scope", "rope_theta",
                          "rotary_fraction", "sliding_window", "num_active_experts", "expert_dim",
                          "normalize_expert_weights"})  # fmt: skip
"""Fields that have an effect or none as another field says; then that one is the obstacle."""
MOST_LAYERS = 10_000
"""What is said of each layer is looked at, so their number must be one that there can be."""


def read_config(words: Words, name: str) -> tuple[Family, GPTConfig]:
    """The family of a config.json, and the network it describes.

    Args:
        words: the file's content.
        name: what errors call it.

    Raises:
        InputError: the architecture, a value or a word is not supported, or a word is missing.
    """
    model_type = words.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise InputError(f"{name}: model_type '{model_type}' is not supported; supported: {known}")
    family = FAMILIES[model_type]
    named = {family.aliases.get(word, word): value for word, value in words.items()}
    said = {**family.defaults, **named}
    for word, values in {**REQUIRED_OF_ALL, **family.required}.items():
        if word in said and said[word] not in values:
            raise InputError(f"{name}: {word}={said[word]!r} is not supported; only {values[0]!r}")
    translated = {word for translator in family.translators for word in translator.words}
    known_words = {*family.names, *family.required, *REQUIRED_OF_ALL, *translated, *HARMLESS}
    unknown = sorted(w for w, value in said.items() if w not in known_words and value is not None)
    if unknown:
        raise InputError(
            f"{name}: '{unknown[0]}' = {said[unknown[0]]!r} is not a word of {model_type} that is "
            "known here; it may change the result, so the model is not loaded"
        )
    missing = sorted(word for word in family.names if word not in said)
    if missing:
        raise InputError(f"{name} has no '{missing[0]}'")
    num_layers = next(said[word] for word, ours in family.names.items() if ours == "num_layers")
    if not isinstance(num_layers, int) or not 0 < num_layers <= MOST_LAYERS:
        raise InputError(f"{name}: {num_layers!r} is no number of layers; at most {MOST_LAYERS:,}")
    fields = dict(family.fixed)
    try:
        for translator in family.translators:
            fields |= translator.read(said)
        fields |= {ours: said[word] for word, ours in family.names.items()}
        return family, GPTConfig(**fields)
    except KeyError as error:
        raise InputError(f"{name} has no {error}") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{name} holds a value of the wrong kind: {error}") from None


def write_words(model_type: str, config: GPTConfig) -> Words:
    """A config.json of this family; `obstacles` says whether it describes the same network."""
    family = FAMILIES[model_type]
    words: Words = {"architectures": [family.architecture], "model_type": model_type}
    # As they count, not as they were left out: transformers has defaults of its own.
    effective = effective_fields(config)
    # Those without effect are asked for, too.
    values = asdict(config) | {name: v for name, v in effective.items() if v is not None}
    values["mlp_dim"] = config.mlp_width
    words |= {word: values[ours] for word, ours in family.names.items()}
    if config.window_rope_theta is None:  # asked for even where no layer has a window
        config = replace(config, window_rope_theta=config.rope_theta)
    for translator in family.translators:
        words |= translator.write(config)
    # The rows of some embeddings at this id are never trained; we have no such row.
    return {**words, "pad_token_id": None, "initializer_range": config.init_std}


def nearest_config(model_type: str, config: GPTConfig) -> GPTConfig:
    """The network of the family that is most like `config`."""
    like = replace(config, mlp_dim=config.mlp_width)  # the default depends on the activation
    # The activation is the one word for which a family may have no name at all.
    for mlp in (config.mlp, *get_args(MLPKind)):
        experts = config.num_experts if mlp in GATED_MLPS else None
        try:
            words = write_words(model_type, replace(like, mlp=mlp, num_experts=experts))
            return read_config(words, model_type)[1]
        except InputError as error:
            reason = error
    raise reason


def obstacles(model_type: str, config: GPTConfig) -> list[str]:
    """What of `config` the family cannot hold; nothing where it can hold all of it.

    A bias that the network lacks is none: it is written as zeros (`added_biases`).
    """
    ours = effective_fields(config)
    theirs = effective_fields(nearest_config(model_type, config))
    added = added_biases(model_type, config)
    return [
        f"{name}={ours[name]!r} ({model_type}: {theirs[name]!r})"
        for name in ours
        if name not in added
        and not (name in CONSEQUENCES and None in (ours[name], theirs[name]))
        and not _are_same(ours[name], theirs[name])
    ]


def added_biases(model_type: str, config: GPTConfig) -> list[str]:
    """The fields that say of biases that the family has them, where `config` says no."""
    ours = effective_fields(config)
    theirs = effective_fields(nearest_config(model_type, config))
    return [name for name in BIASES if theirs[name] and not ours[name]]


def effective_fields(config: GPTConfig) -> dict[str, Any]:
    """The fields that decide what the network computes, with defaults filled in.

    What has no effect in this network is None, so that two configurations of one network agree.
    """
    fields = {name: v for name, v in asdict(config).items() if name not in NOT_OF_THE_NETWORK}
    layers = range(config.num_layers)
    pattern = tuple(config.attention_kind(layer) for layer in layers)
    is_windowed, is_rotary = "window" in pattern, config.position == "rotary"
    has_experts = any(config.has_experts(layer) for layer in layers)
    has_dense = not all(config.has_experts(layer) for layer in layers)
    fields |= {
        "vocab_size": config.vocab_size and config.padded_vocab_size,
        "num_kv_heads": config.kv_heads,
        "head_dim": config.head_width,
        "mlp_dim": config.mlp_width if has_dense or config.expert_dim is None else None,
        "use_qkv_bias": config.has_qkv_bias,
        "use_out_bias": config.has_out_bias,
        "use_mlp_bias": config.has_mlp_bias,
        "attention_pattern": pattern,
        "sliding_window": config.sliding_window if is_windowed else None,
        "attention_scale": config.attention_scale or config.head_width**-0.5,
        "qk_norm_scope": config.qk_norm_scope if config.use_qk_norm else None,
        "use_norm_offset": config.use_norm_offset if config.norm == "rmsnorm" else None,
        "rope_theta": config.rope_theta if is_rotary else None,
        "rotary_fraction": config.rotary_width / config.head_width if is_rotary else None,
        "rope_scaling": fields["rope_scaling"] if is_rotary else None,
        "num_experts": config.num_experts if has_experts else None,
        "num_active_experts": config.num_active_experts if has_experts else None,
        "expert_dim": config.expert_width if has_experts else None,
        "normalize_expert_weights": config.normalize_expert_weights if has_experts else None,
        "dense_layers": tuple(n for n in layers if not config.has_experts(n))
        if has_experts
        else (),
    }
    has_own = is_rotary and is_windowed and config.window_rope_theta is not None
    fields["window_rope_theta"] = config.window_rope_theta if has_own else None
    if config.norm == "rmsnorm":  # it has no bias, so this decides nothing but the layers'
        fields["use_bias"] = None
    return fields


def _are_same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= 1e-9 * abs(ours)
    return bool(ours == theirs)

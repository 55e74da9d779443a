"""What values the fields of a GPTConfig may have, and which of them go together."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from lit_gpt_kit.errors import InputError, did_you_mean

if TYPE_CHECKING:  # the configuration calls these
    from lit_gpt_kit.model.config import GPTConfig


def check_count(name: str, value: Any) -> None:
    """Refuse what counts nothing.

    Raises:
        InputError: the value is no whole number above 0.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(f"{name}={value!r} must be a whole number")
    if value < 1:
        raise InputError(f"{name}={value} must be at least 1")


def check_positive(name: str, value: Any) -> None:
    """Refuse what nothing can be divided by.

    Raises:
        InputError: the value is no finite number above 0.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < math.inf:
        raise InputError(f"{name}={value!r} must be a number above 0")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse what is none of a closed choice.

    Raises:
        InputError: names the nearest choice.
    """
    if value not in choices:
        raise InputError(f"{name}='{value}' is no {name}{did_you_mean(str(value), choices)}")


def check_shapes(config: "GPTConfig") -> None:
    """Refuse fields that do not go together.

    Raises:
        InputError: naming the field, its value and the rule.
    """
    if "window" in config.attention_pattern and config.sliding_window is None:
        raise InputError("attention_pattern has window layers; give sliding_window, their size")
    if not config.attention_pattern:
        raise InputError("attention_pattern is empty; name at least one kind of attention")
    if config.num_experts is not None and config.num_active_experts > config.num_experts:
        raise InputError(
            f"num_active_experts={config.num_active_experts} is more than "
            f"num_experts={config.num_experts}; lower it"
        )
    if config.head_dim is None and config.embed_dim % config.num_heads:
        raise InputError(
            f"embed_dim={config.embed_dim} is not divisible by num_heads={config.num_heads}; "
            "change one of them or give head_dim"
        )
    if config.num_heads % config.kv_heads:
        raise InputError(
            f"num_heads={config.num_heads} is not divisible by num_kv_heads={config.kv_heads}; "
            "each key head serves the same number of query heads"
        )
    if not 0 < config.rotary_fraction <= 1:
        raise InputError(f"rotary_fraction={config.rotary_fraction} must be above 0 and at most 1")
    if config.position == "rotary" and (config.rotary_width < 2 or config.rotary_width % 2):
        part = config.rotary_fraction
        share = f" x rotary_fraction={part}" if part < 1 else ""
        raise InputError(
            f"head_dim={config.head_width}{share} is odd; rotary positions turn pairs of "
            "numbers, so it must be even"
        )
    scaling = config.rope_scaling
    if config.position == "rotary" and scaling is not None and scaling.kind == "longrope":
        for name in ("short_factors", "long_factors"):
            if len(getattr(scaling, name)) != config.rotary_width // 2:
                raise InputError(
                    f"rope_scaling.{name} are {len(getattr(scaling, name))} numbers; longrope "
                    f"needs one for each of the {config.rotary_width // 2} frequencies"
                )
    if config.position == "sinusoidal" and config.embed_dim % 2:
        raise InputError(
            f"embed_dim={config.embed_dim} is odd; sinusoidal positions come in pairs of sine "
            "and cosine, so it must be even"
        )
    for layer in config.value_embedding_layers:
        if not 0 <= layer < config.num_layers:
            raise InputError(
                f"value_embedding_layers names layer {layer}; num_layers={config.num_layers} are "
                "counted from 0"
            )
    if not 0.0 <= config.dropout < 1.0:
        raise InputError(f"dropout={config.dropout} must be at least 0 and below 1")

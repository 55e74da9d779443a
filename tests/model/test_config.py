"""GPTConfig: defaults, derived widths, and the text of every refusal."""

import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig

COUNTS = [
    "vocab_size",
    "block_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "embed_dim",
    "mlp_dim",
]


def test_defaults_are_gpt2_small() -> None:
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.GPT2Config(), GPTConfig()
    assert ours.block_size == theirs.n_positions
    assert ours.num_layers == theirs.n_layer
    assert ours.num_heads == theirs.n_head
    assert ours.embed_dim == theirs.n_embd
    assert ours.norm_eps == theirs.layer_norm_epsilon
    assert ours.init_std == theirs.initializer_range
    assert ours.tie_embeddings is theirs.tie_word_embeddings is True
    assert (ours.position, ours.norm, ours.mlp) == ("learned", "layernorm", "gelu_tanh")
    assert ours.use_bias
    assert not ours.use_qk_norm
    assert ours.vocab_size is None
    assert ours.end_token_id is None
    assert ours.dropout == 0.0


def test_derived_widths_of_the_defaults() -> None:
    config = GPTConfig()
    assert (config.kv_heads, config.head_width, config.mlp_width) == (12, 64, 3072)


def test_given_widths_win() -> None:
    config = GPTConfig(num_kv_heads=3, head_dim=10, mlp_dim=7, mlp="swiglu")
    assert (config.kv_heads, config.head_width, config.mlp_width) == (3, 10, 7)


@pytest.mark.parametrize("mlp", ["gelu", "gelu_tanh", "relu2"])
def test_plain_mlp_is_four_times_as_wide(mlp: Any) -> None:
    assert GPTConfig(embed_dim=96, mlp=mlp).mlp_width == 384


@pytest.mark.parametrize("mlp", ["swiglu", "geglu"])
@pytest.mark.parametrize(("embed_dim", "width"), [(24, 64), (25, 128), (768, 2048), (4096, 10944)])
def test_gated_mlp_is_eight_thirds_as_wide_in_steps_of_64(
    mlp: Any, embed_dim: int, width: int
) -> None:
    assert GPTConfig(embed_dim=embed_dim, num_heads=1, mlp=mlp).mlp_width == width


@given(embed_dim=st.integers(1, 10_000))
def test_gated_width_is_the_least_multiple_of_64_that_suffices(embed_dim: int) -> None:
    width = GPTConfig(embed_dim=embed_dim, num_heads=1, mlp="swiglu").mlp_width
    assert width % 64 == 0
    assert 0 <= 3 * width - 8 * embed_dim < 3 * 64


def test_frozen_and_hashable() -> None:
    config = GPTConfig(vocab_size=5)
    with pytest.raises(FrozenInstanceError):
        config.vocab_size = 6  # type: ignore[misc]
    assert {config: 1}[GPTConfig(vocab_size=5)] == 1


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -3])
def test_refuses_counts_below_one(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"^{name}={value} must be at least 1$"):
        GPTConfig(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embed_dim": 30, "num_heads": 4},
            "embed_dim=30 is not divisible by num_heads=4; change one of them or give head_dim",
        ),
        (
            {"num_heads": 12, "num_kv_heads": 5},
            "num_heads=12 is not divisible by num_kv_heads=5; "
            "each key head serves the same number of query heads",
        ),
        (
            {"num_heads": 12, "num_kv_heads": 24},
            "num_heads=12 is not divisible by num_kv_heads=24; "
            "each key head serves the same number of query heads",
        ),
        (
            {"position": "rotary", "head_dim": 7},
            "head_dim=7 is odd; rotary positions turn pairs of numbers, so it must be even",
        ),
        (
            {"position": "rotary", "embed_dim": 36, "num_heads": 12},
            "head_dim=3 is odd; rotary positions turn pairs of numbers, so it must be even",
        ),
        (
            {"position": "sinusoidal", "embed_dim": 33, "num_heads": 3},
            "embed_dim=33 is odd; sinusoidal positions come in pairs of sine and cosine, "
            "so it must be even",
        ),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout=-0.1 must be at least 0 and below 1"),
        ({"dropout": float("nan")}, "dropout=nan must be at least 0 and below 1"),
    ],
)
def test_refusals_name_the_value_the_rule_and_the_remedy(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        GPTConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 30, "num_heads": 4, "head_dim": 8},
        {"num_heads": 12, "num_kv_heads": 1},
        {"position": "learned", "head_dim": 7},
        {"position": "rotary", "embed_dim": 33, "num_heads": 1, "head_dim": 6},
        {"position": "none", "embed_dim": 33, "num_heads": 3},
        {"dropout": 0.999},
        {"vocab_size": 1, "block_size": 1, "num_layers": 1},
    ],
)
def test_accepts_what_the_rules_allow(changes: dict[str, Any]) -> None:
    config = GPTConfig(**changes)
    assert {name: getattr(config, name) for name in changes} == changes

"""Scaled rotary frequencies against those of transformers."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lit_gpt_kit.model.config import RopeScaling
from lit_gpt_kit.model.frequencies import base_frequencies, scale_frequencies

DIMS = st.integers(1, 64).map(lambda half: 2 * half)
THETAS = st.sampled_from([100.0, 1e4, 5e5, 1e6]) | st.floats(100, 1e7)
FACTORS = st.floats(1.0, 64.0)
BLOCKS = st.sampled_from([64, 2048, 4096, 8192, 32768]) | st.integers(64, 100_000)


def theirs(
    kind: str, dim: int, theta: float, seq_len: int | None = None, **words: Any
) -> tuple[Tensor, float]:
    """The frequencies and the factor of transformers."""
    original = words.get("original_max_position_embeddings", 4096)
    config = LlamaConfig(
        head_dim=dim,
        hidden_size=dim,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64 * original,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **words},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)
    return frequencies, factor


def assert_same(
    scaling: RopeScaling,
    dim: int,
    theta: float,
    expected: tuple[Tensor, float],
    rtol: float = 2e-5,
    **how: Any,
) -> None:
    frequencies, factor = scale_frequencies(base_frequencies(dim, theta), theta, scaling, **how)
    assert frequencies.dtype == torch.float64
    assert frequencies.shape == (dim // 2,)
    # Theirs are worked out in float32.
    torch.testing.assert_close(frequencies.float(), expected[0], rtol=rtol, atol=0)
    assert factor == pytest.approx(expected[1], rel=1e-12)


@given(dim=DIMS, theta=THETAS)
def test_base_frequencies_are_the_closed_form(dim: int, theta: float) -> None:
    expected = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    assert base_frequencies(dim, theta).tolist() == pytest.approx(expected, rel=1e-12)
    assert scale_frequencies(base_frequencies(dim, theta), theta, None)[1] == 1.0


@settings(max_examples=40, deadline=None)
@given(dim=DIMS, theta=THETAS, factor=FACTORS)
def test_linear(dim: int, theta: float, factor: float) -> None:
    scaling = RopeScaling("linear", factor=factor)
    assert_same(scaling, dim, theta, theirs("linear", dim, theta, factor=factor))


@settings(max_examples=80, deadline=None)
@given(
    dim=DIMS,
    theta=THETAS,
    factor=FACTORS,
    block=BLOCKS,
    low=st.floats(0.5, 4.0),
    span=st.floats(0.1, 8.0),
)
def test_llama3(dim: int, theta: float, factor: float, block: int, low: float, span: float) -> None:
    scaling = RopeScaling(
        "llama3",
        factor=factor,
        original_block_size=block,
        low_frequency_factor=low,
        high_frequency_factor=low + span,
    )
    expected = theirs(
        "llama3",
        dim,
        theta,
        factor=factor,
        original_max_position_embeddings=block,
        low_freq_factor=low,
        high_freq_factor=low + span,
    )
    # Their ramp is a difference of float32 numbers up to low + span, divided by span, and where it
    # begins a frequency is `factor` times smaller than what is added to it.
    rounding = 4 * torch.finfo(torch.float32).eps * factor * (low + span) / span
    assert_same(scaling, dim, theta, expected, rtol=max(2e-5, rounding))


@settings(max_examples=80, deadline=None)
@given(
    dim=DIMS,
    theta=THETAS,
    factor=FACTORS,
    block=BLOCKS,
    fast=st.sampled_from([32.0, 16.0, 64.0]),
    slow=st.sampled_from([1.0, 2.0]),
    truncate=st.booleans(),
    attention_factor=st.none() | st.floats(0.5, 2.0),
)
def test_yarn(
    dim: int,
    theta: float,
    factor: float,
    block: int,
    fast: float,
    slow: float,
    truncate: bool,
    attention_factor: float | None,
) -> None:
    scaling = RopeScaling(
        "yarn",
        factor=factor,
        original_block_size=block,
        beta_fast=fast,
        beta_slow=slow,
        truncate=truncate,
        attention_factor=attention_factor,
    )
    expected = theirs(
        "yarn",
        dim,
        theta,
        factor=factor,
        original_max_position_embeddings=block,
        beta_fast=fast,
        beta_slow=slow,
        truncate=truncate,
        attention_factor=attention_factor,
    )
    assert_same(scaling, dim, theta, expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dim=DIMS, theta=THETAS, factor=FACTORS, block=BLOCKS, is_long=st.booleans())
def test_longrope(
    data: st.DataObject, dim: int, theta: float, factor: float, block: int, is_long: bool
) -> None:
    divisors = st.lists(st.floats(1.0, 60.0), min_size=dim // 2, max_size=dim // 2)
    short, long = data.draw(divisors), data.draw(divisors)
    attention_factor = data.draw(st.none() | st.floats(0.5, 2.0))
    assume(block > 1)
    scaling = RopeScaling(
        "longrope",
        factor=factor,
        original_block_size=block,
        short_factors=tuple(short),
        long_factors=tuple(long),
        attention_factor=attention_factor,
    )
    expected = theirs(
        "longrope",
        dim,
        theta,
        seq_len=block + is_long,
        factor=factor,
        original_max_position_embeddings=block,
        short_factor=short,
        long_factor=long,
        attention_factor=attention_factor,
    )
    assert_same(scaling, dim, theta, expected, is_long=is_long)


def test_frequencies_of_the_meta_device_are_numbers() -> None:
    with torch.device("meta"):
        frequencies, _ = scale_frequencies(
            base_frequencies(4, 1e4),
            1e4,
            RopeScaling("longrope", short_factors=(1.0, 2.0), long_factors=(1.0, 2.0)),
        )
    assert frequencies.device.type == "cpu"

"""FLOPs from the shape are those that torch counts as it runs the network."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.flops import forward_flops_per_token, training_flops_per_token
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.size import count_by_part, count_parameters

SHAPE = GPTConfig(vocab_size=96, block_size=32, num_layers=3, num_heads=4, embed_dim=64)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_kv_heads": 2, "position": "rotary", "norm": "rmsnorm", "mlp": "swiglu"},
        {"head_dim": 24, "tie_embeddings": False, "mlp_dim": 80},
        {"mlp": "swiglu", "num_experts": 4, "num_active_experts": 2, "dense_layers": (0,)},
    ],
    ids=["gpt2", "llama", "odd", "experts"],
)
def test_as_torch_counts_them(options: dict[str, Any]) -> None:
    config = GPTConfig(**{**SHAPE.__dict__, **options})
    model, ids = GPT(config), torch.randint(96, (2, 24))
    # torch's counter knows attention only where it is spelled out.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(ids)
        assert counter.get_total_flops() / ids.numel() == forward_flops_per_token(config, 24)
        logits.sum().backward()
    assert counter.get_total_flops() / ids.numel() == training_flops_per_token(config, 24)


def test_without_the_head_as_torch_counts_them() -> None:
    model, ids = GPT(SHAPE), torch.randint(96, (2, 24))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.hidden_states(ids).sum().backward()
    flops = training_flops_per_token(SHAPE, 24, has_head=False)
    assert counter.get_total_flops() / ids.numel() == flops


def test_gpt2_is_palms_formula() -> None:
    config = GPTConfig(vocab_size=50257)
    weights = count_parameters(config) - config.block_size * config.embed_dim
    palm = 6 * weights + 12 * config.num_layers * config.embed_dim * config.block_size
    # Biases and gains are no matrices; they are a thousandth.
    assert training_flops_per_token(config) == pytest.approx(palm, rel=1.2e-3)
    assert training_flops_per_token(config) < palm


@pytest.mark.parametrize(
    ("layers", "embed", "heads", "vocab", "seq"),
    [(12, 768, 12, 50257, 1024), (96, 12288, 96, 51200, 2048)],
    ids=["GPT-2", "GPT-3"],
)
def test_gpt_shapes_are_megatrons_formula(
    layers: int, embed: int, heads: int, vocab: int, seq: int
) -> None:
    """72 l h^2 (1 + s / 6h + V / 12lh) a token, Narayanan et al. 2021, but for recomputation."""
    config = GPTConfig(vocab, seq, num_layers=layers, num_heads=heads, embed_dim=embed)
    megatron = 72 * layers * embed**2 * (
        1 + seq / (6 * embed) + vocab / (12 * layers * embed)
    )  # fmt: skip
    assert training_flops_per_token(config) == pytest.approx(megatron, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "num_parameters", "over_six_n"),
    [
        ({"vocab_size": 32000, "block_size": 4096, "num_layers": 32, "num_heads": 32,
          "embed_dim": 4096, "mlp_dim": 11008}, 6_738_415_616, 1.14),
        ({"vocab_size": 128256, "block_size": 8192, "num_layers": 80, "num_heads": 64,
          "num_kv_heads": 8, "embed_dim": 8192, "mlp_dim": 28672}, 70_553_706_496, 1.14),
    ],
    ids=["Llama-2-7B", "Llama-3-70B"],
)  # fmt: skip
def test_llama_shapes_are_six_n_and_attention(
    options: dict[str, Any], num_parameters: int, over_six_n: float
) -> None:
    """C = 6 N + 12 L H Q T, Chowdhery et al. 2022, on the 6 N of Kaplan et al. 2020."""
    llama = {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False}
    config = GPTConfig(**options, **llama, tie_embeddings=False)
    parts = count_by_part(config)
    assert sum(parts.values()) == num_parameters
    n = num_parameters - parts["token embedding"] - parts["norms"]
    attention = 12 * config.num_layers * config.embed_dim * config.block_size
    assert training_flops_per_token(config) == 6 * n + attention
    assert training_flops_per_token(config) / (6 * n) == pytest.approx(over_six_n, abs=0.03)


def test_a_window_bounds_the_keys() -> None:
    config = GPTConfig(
        **{**SHAPE.__dict__, "attention_pattern": ("window", "full"), "sliding_window": 8}
    )
    saved = 2 * 2 * (4 * 16) * (32 - 8)
    plain = forward_flops_per_token(SHAPE)
    assert forward_flops_per_token(config) == plain - 2 * saved  # of layers 0 and 2
    assert forward_flops_per_token(config, 8) == forward_flops_per_token(SHAPE, 8)


def test_frozen_weights_have_no_gradient() -> None:
    assert training_flops_per_token(SHAPE, has_frozen_weights=True) * 3 == (
        2 * training_flops_per_token(SHAPE)
    )

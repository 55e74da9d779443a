"""Numbers of weights worked out from a shape, against networks that are built."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lit_gpt_kit.checkpoints.translation import read_config
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.size import (
    count_active_parameters,
    count_parameters,
)
from tests.transformers_models import CASES, GPT2_SIZES, SHAPES, SIZES

SMALL: dict[str, Any] = {"vocab_size": 60, "block_size": 32, "num_layers": 3, "embed_dim": 24}
LLAMA: dict[str, Any] = {
    "position": "rotary",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "use_bias": False,
}
MOE: dict[str, Any] = {**LLAMA, "num_experts": 6, "num_active_experts": 2, "expert_dim": 16}


def built(config: GPTConfig) -> GPT:
    with torch.device("meta"):
        return GPT(config, initialize=False)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_counts_what_is_built(data: st.DataObject) -> None:
    def draw(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    mlp = draw("gelu", "gelu_tanh", "relu2", "swiglu", "geglu", "geglu_tanh")
    num_experts = draw(None, 1, 5)
    assume(num_experts is None or "glu" in mlp)
    flags = {
        name: draw(True, False)
        for name in (
            "use_bias",
            "use_qk_norm",
            "tie_embeddings",
            "use_parallel_residual",
            "use_token_shift",
        )
    }
    biases = {name: draw(None, True, False) for name in ("use_qkv_bias", "use_out_bias")}
    config = GPTConfig(
        **SMALL,
        num_heads=4,
        num_kv_heads=draw(None, 1, 2),
        head_dim=draw(None, 10),
        mlp_dim=draw(None, 20),
        use_mlp_bias=draw(None, True, False),
        position=draw("sinusoidal", "learned", "rotary", "none"),
        norm=draw("layernorm", "rmsnorm"),
        norm_placement=draw("pre", "post", "both"),
        qk_norm_scope=draw("head", "all_heads"),
        mlp=mlp,
        num_experts=num_experts,
        num_active_experts=1,
        expert_dim=draw(None, 12),
        dense_layers=draw((), (1,)),
        value_embedding_layers=draw((), (0,), (1, 0)),
        pad_vocab_to_multiple_of=draw(1, 64),
        **flags,
        **biases,
    )
    assert count_parameters(config) == built(config).num_parameters()


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_counts_the_pretrained_families(family: str, shape: str) -> None:
    sizes = (GPT2_SIZES if family == "gpt2" else SIZES) | SHAPES[family][shape]
    if family == "gpt_neox":
        sizes.pop("num_key_value_heads")
    words = transformers.AutoConfig.for_model(family, **sizes).to_dict()
    _, config = read_config(words, family)
    assert count_parameters(config) == built(config).num_parameters()


def test_counts_gpt2() -> None:
    assert count_parameters(GPTConfig(vocab_size=50257)) == 124_439_808


def test_active_parameters_are_those_of_a_tokens_experts() -> None:
    config = GPTConfig(**SMALL, **MOE, dense_layers=(0,))
    expert = 3 * 24 * 16
    idle = 2 * (6 - 2) * expert  # two layers, four experts each
    assert count_active_parameters(config) == count_parameters(config) - idle
    dense = GPTConfig(**SMALL, **LLAMA)
    assert count_active_parameters(dense) == count_parameters(dense)


def test_without_a_vocabulary_there_is_no_size() -> None:
    with pytest.raises(InputError, match="vocab_size is not given"):
        count_parameters(GPTConfig())

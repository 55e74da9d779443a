"""Weights that are drawn later have the numbers that they would have had at once."""

from typing import Any

import pytest
import torch
from torch import nn

from lit_gpt_kit import GPT, GPTConfig, LoRAConfig
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.lora import apply_lora
from lit_gpt_kit.parallel.deferred import Deferred

CPU = torch.device("cpu")
CONFIGS = {
    "gpt2": GPTConfig(31, num_layers=2, num_heads=2, embed_dim=16, block_size=8),
    "untied": GPTConfig(
        31,
        num_layers=2,
        num_heads=2,
        embed_dim=16,
        block_size=8,
        position="rotary",
        norm="rmsnorm",
        mlp="swiglu",
        tie_embeddings=False,
        init="zero_projection",
        use_token_shift=True,
    ),
    "experts": GPTConfig(
        31, num_layers=1, num_heads=2, embed_dim=16, block_size=8, mlp="swiglu", num_experts=3
    ),
}


def build(config: GPTConfig, with_adapters: bool) -> GPT:
    torch.manual_seed(5)
    model = GPT(config)
    return apply_lora(model, LoRAConfig(rank=2)) if with_adapters else model


@pytest.mark.parametrize("with_adapters", [False, True], ids=["plain", "adapters"])
@pytest.mark.parametrize("name", CONFIGS)
def test_filled_block_by_block_it_is_the_same_network(name: str, with_adapters: bool) -> None:
    if name == "experts" and with_adapters:
        with_adapters = False
    expected = build(CONFIGS[name], with_adapters)
    drawn_next = torch.rand(3)
    deferred = Deferred(CPU)
    with deferred:
        model = build(CONFIGS[name], with_adapters)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    assert all(parameter.is_meta for parameter in matrices)
    # What is drawn after the network is what would have been.
    assert torch.equal(torch.rand(3), drawn_next)
    for block in reversed(model.blocks):
        deferred.materialize(block)
    deferred.materialize(model)
    actual = model.state_dict()
    for key, value in expected.state_dict().items():
        assert torch.equal(actual[key], value), key
    assert (model.lm_head.weight is model.token_embedding.weight) == CONFIGS[name].tie_embeddings
    for (_, ours), (_, theirs) in zip(
        model.named_parameters(), expected.named_parameters(), strict=True
    ):
        assert ours.requires_grad == theirs.requires_grad


def test_what_changes_numbers_in_place_is_repeated_in_order() -> None:
    def draw() -> nn.Linear:
        torch.manual_seed(1)
        layer = nn.Linear(4, 3)
        with torch.no_grad():
            layer.weight.mul_(3.0)
            layer.weight.add_(1.0)
        return layer

    deferred = Deferred(CPU)
    with deferred:
        layer = draw()
    deferred.materialize(layer)
    assert torch.equal(layer.weight, draw().weight)


def test_a_weight_is_filled_from_elsewhere() -> None:
    deferred = Deferred(CPU)
    with deferred:
        layer = nn.Linear(4, 3)
    deferred.fill_with(layer.weight, lambda whole: whole.fill_(2.0))
    deferred.fill_with(layer.bias, lambda whole: whole.fill_(1.0))
    deferred.materialize(layer)
    assert layer.weight.tolist() == [[2.0] * 4] * 3
    assert layer.bias.tolist() == [1.0] * 3


def test_weights_made_of_others_are_refused() -> None:
    config: Any = LoRAConfig(rank=2, use_dora=True)
    deferred = Deferred(CPU)
    with deferred:
        model = apply_lora(GPT(CONFIGS["gpt2"]), config)
    with pytest.raises(InputError, match="of other weights, which no device has whole"):
        deferred.materialize(model)

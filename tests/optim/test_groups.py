"""Weight decay falls on matrices alone."""

import pytest
import torch
from torch import nn

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.optim.groups import decay_groups

CONFIG = GPTConfig(vocab_size=17, num_layers=1, num_heads=2, embed_dim=8, block_size=4)
MATRICES = {
    "token_embedding.weight",
    "position_embedding.weight",
    "blocks.0.attention.qkv.weight",
    "blocks.0.attention.out.weight",
    "blocks.0.mlp.up.weight",
    "blocks.0.mlp.down.weight",
}


def names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len({id(parameter) for parameter in parameters}) == len(parameters)
    return {by_id[id(parameter)] for parameter in parameters}


def test_matrices_decay_and_the_rest_does_not() -> None:
    model = GPT(CONFIG)
    decayed, rest = decay_groups(model.named_parameters())
    assert names(model, decayed["params"]) == MATRICES
    every_name = {name for name, _ in model.named_parameters()}
    assert names(model, rest["params"]) == every_name - MATRICES
    assert "weight_decay" not in decayed  # the optimiser's own
    assert rest["weight_decay"] == 0.0


def test_frozen_parameters_are_left_out() -> None:
    model = GPT(CONFIG)
    model.token_embedding.weight.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    decayed, rest = decay_groups(model.named_parameters())
    assert names(model, decayed["params"]) == MATRICES - {"token_embedding.weight"}
    assert "norm.bias" not in names(model, rest["params"])
    assert "norm.weight" in names(model, rest["params"])


@pytest.mark.parametrize("kind", ["matrix", "vector"])
def test_an_empty_group_is_left_out(kind: str) -> None:
    parameter = nn.Parameter(torch.ones(2, 2) if kind == "matrix" else torch.ones(2))
    (group,) = decay_groups([("weight", parameter)])
    assert group["params"] == [parameter]
    assert ("weight_decay" in group) == (kind == "vector")
    assert decay_groups([]) == []


def test_a_step_without_gradient_shrinks_matrices_alone() -> None:
    model = GPT(CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(decay_groups(model.named_parameters()), lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in MATRICES else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)

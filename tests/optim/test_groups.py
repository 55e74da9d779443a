"""Weight decay falls on matrices alone, rates on layers, and what is frozen stays."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.optim.groups import decay_groups, freeze, scale_rates

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
    *decayed, rest = decay_groups(model.named_parameters())
    assert names(model, [p for group in decayed for p in group["params"]]) == MATRICES
    every_name = {name for name, _ in model.named_parameters()}
    assert names(model, rest["params"]) == every_name - MATRICES
    assert all("weight_decay" not in group for group in decayed)  # the optimiser's own
    assert rest["weight_decay"] == 0.0


def test_each_part_has_a_group() -> None:
    model = GPT(replace(CONFIG, tie_embeddings=False))
    groups = {group["part"]: group for group in decay_groups(model.named_parameters())}
    assert list(groups) == ["hidden", "embeddings", "head", "vectors"]
    assert all(group["name"] == part for part, group in groups.items())
    embeddings = {"token_embedding.weight", "position_embedding.weight"}
    assert names(model, groups["embeddings"]["params"]) == embeddings
    assert names(model, groups["head"]["params"]) == {"lm_head.weight"}
    assert names(model, groups["hidden"]["params"]) == MATRICES - embeddings


def test_a_value_embedding_is_an_embedding_of_its_layer() -> None:
    model = GPT(replace(CONFIG, num_layers=3, value_embedding_layers=(1,)))
    groups = {group["part"]: group for group in decay_groups(model.named_parameters())}
    table, share = (f"blocks.1.attention.value_embedding.{name}" for name in ("weight", "scale"))
    assert table in names(model, groups["embeddings"]["params"])
    assert share in names(model, groups["vectors"]["params"])
    by_depth = decay_groups(model.named_parameters(), layer_lr_decay=0.5, num_layers=3)
    (scale,) = (g["lr_scale"] for g in by_depth if table in names(model, g["params"]))
    assert scale == 0.25


def test_frozen_parameters_are_left_out() -> None:
    model = GPT(CONFIG)
    model.token_embedding.weight.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    *decayed, rest = decay_groups(model.named_parameters())
    trained = names(model, [p for group in decayed for p in group["params"]])
    assert trained == MATRICES - {"token_embedding.weight"}
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


# ---- rates by layer ----


class Task(nn.Module):
    """As in training: the network has a name of its own, and something stands on it."""

    def __init__(self) -> None:
        super().__init__()
        config = GPTConfig(vocab_size=17, num_layers=3, num_heads=2, embed_dim=8, block_size=4)
        self.model = GPT(config)
        self.head = nn.Linear(8, 2)


def test_deeper_layers_learn_slower() -> None:
    task = Task()
    optimizer = torch.optim.SGD(decay_groups(task.named_parameters(), 0.5, 3), lr=0.8)
    scale_rates(optimizer)
    rates = {
        name: group["lr"]
        for group in optimizer.param_groups
        for name in names(task, group["params"])
    }
    assert rates.keys() == {name for name, _ in task.named_parameters()}
    # BEiT's numbering: the embeddings are layer 0, the head is layer num_layers + 1.
    by_layer = {"head": 4, "model.norm": 4, "model.token_embedding": 0,
                "model.position_embedding": 0, "model.blocks.0": 1, "model.blocks.1": 2,
                "model.blocks.2": 3}  # fmt: skip
    for name, rate in rates.items():
        layer = next(n for start, n in by_layer.items() if name.startswith(start + "."))
        assert rate == pytest.approx(0.8 * 0.5 ** (4 - layer))
    assert optimizer.param_groups[0]["lr"] == 0.8
    group_names = [group["name"] for group in optimizer.param_groups]
    assert len(set(group_names)) == len(group_names)
    assert group_names[:3] == ["depth 0: head", "depth 0: vectors", "depth 1: hidden"]


def test_what_is_frozen_still_counts_as_a_layer() -> None:
    task = Task()
    freeze(task, ["blocks.2"])
    groups = decay_groups(task.named_parameters(), 0.5, 3)
    (slowest,) = [group for group in groups if group["lr_scale"] == 0.5**4]
    assert names(task, slowest["params"]) == {
        "model.token_embedding.weight",
        "model.position_embedding.weight",
    }


def test_a_step_follows_the_rates_and_the_schedule() -> None:
    task = Task()
    optimizer = torch.optim.SGD(decay_groups(task.named_parameters(), 0.1, 3), lr=1.0)
    scale_rates(optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    before = task.model.blocks[2].mlp.up.weight.detach().clone()
    for parameter in task.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    moved = before - task.model.blocks[2].mlp.up.weight.detach()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1 * (1 + 1 / 2)))


def test_without_decay_by_layer_all_rates_are_one() -> None:
    optimizer = torch.optim.SGD(decay_groups(Task().named_parameters()), lr=0.8)
    scale_rates(optimizer)
    assert [group["name"] for group in optimizer.param_groups] == [
        "hidden",
        "embeddings",
        "head",
        "vectors",
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.8] * 4


def test_groups_of_others_keep_their_rate() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.8)
    scale_rates(optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.8


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5])
def test_a_decay_out_of_range(value: float) -> None:
    with pytest.raises(InputError) as caught:
        decay_groups([], value)
    assert str(caught.value) == f"layer_lr_decay={value} must be above 0 and at most 1"


# ---- freezing ----


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["model"], {"head.weight", "head.bias"}),
        (["blocks.[0-1]", "*_embedding", "model.norm"], {"model.blocks.2.", "head."}),
        (["*.weight"], {".bias"}),
        ([], {""}),
    ],
)
def test_freezing(patterns: list[str], kept: set[str]) -> None:
    task = Task()
    freeze(task, patterns)
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in task.named_parameters() if any(k in n for k in kept)}


def test_a_pattern_that_matches_nothing() -> None:
    task = Task()
    with pytest.raises(InputError) as caught:
        freeze(task, ["token_embedding", "layers.0"])
    assert str(caught.value).startswith(
        "pattern 'layers.0' of what to freeze matches no parameter; there are "
        "model.token_embedding.weight, model.position_embedding.weight, attention_norm.weight, "
    )
    assert all(parameter.requires_grad for parameter in task.parameters())

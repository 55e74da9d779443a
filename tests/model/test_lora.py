"""LoRA beside a network: PEFT's numbers, merged and unmerged alike, and nothing else moves."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.head import Head
from lit_gpt_kit.model.lora import LoRAConfig, LoRALinear, apply_lora, lora_layers, merge_lora
from lit_gpt_kit.model.loss import next_token_loss

BuildGPT = Callable[..., GPT]
IDS = torch.randint(17, (2, 9), generator=torch.Generator().manual_seed(0))
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"tie_embeddings": True},
    "llama": {"position": "rotary", "num_kv_heads": 2, "mlp": "swiglu", "use_bias": False},
    "capped": {"tie_embeddings": False, "logit_softcap": 2.0},
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "rank": 3},
    "dora": {"use_dora": True, "alpha": 4.0},
    "some parts": {"targets": ["attention.q", "v", "mlp.down"], "use_dora": True},
    "the head": {"targets": ["attention.qkv", "lm_head"]},
}
COMBINATIONS = [(s, k) for s in SHAPES for k in KINDS if k != "the head" or s == "capped"]


def stir(model: nn.Module) -> None:
    """Let every trained number show in the output."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))


@torch.no_grad()
def logits_of(model: GPT) -> Tensor:
    out: Tensor = model(IDS)
    return out


# ---- one layer, against PEFT's ----


def peft_layer(linear: nn.Linear, config: LoRAConfig) -> nn.Module:
    theirs = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        target_modules=["0"],
    )
    return peft.inject_adapter_in_model(theirs, nn.Sequential(linear))


@pytest.mark.parametrize("kind", ["plain", "rslora", "dora"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_computes_and_learns_what_pefts_does(kind: str, has_bias: bool) -> None:
    linear, config = nn.Linear(6, 5, bias=has_bias), LoRAConfig(**KINDS[kind])
    ours = LoRALinear(linear, {"up": 5}, ["up"], config)
    stir(ours)
    theirs = peft_layer(nn.Linear(6, 5, bias=has_bias), config)
    names = {
        "0.base_layer.weight": linear.weight,
        "0.base_layer.bias": linear.bias,
        "0.lora_A.default.weight": ours.a,
        "0.lora_B.default.weight": ours.b["up"],
        "0.lora_magnitude_vector.default.weight": ours.magnitude["up"] if kind == "dora" else None,
    }
    expected = {name: tensor for name, tensor in names.items() if tensor is not None}
    theirs.load_state_dict(expected)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    weights = torch.randn(2, 3, 5)
    (ours(x) * weights).sum().backward()
    (theirs(x) * weights).sum().backward()
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(expected[name].grad, parameter.grad)


def test_it_begins_as_pefts_does() -> None:
    torch.manual_seed(3)
    theirs = peft_layer(nn.Linear(64, 48), LoRAConfig())
    ours = LoRALinear(nn.Linear(64, 48), {"q": 16, "k": 16, "v": 16}, "qkv", LoRAConfig())
    for name in "qkv":
        a, b = ours.part(name)
        assert (a.shape, b.shape) == ((8, 64), (16, 8))
        assert not b.any()
    drawn = theirs.get_parameter("0.lora_A.default.weight")
    torch.testing.assert_close(ours.a.abs().max(), drawn.abs().max(), rtol=0.02, atol=0)
    torch.testing.assert_close(ours.a.std(), drawn.std(), rtol=0.1, atol=0)


def test_dropout_falls_on_what_is_learned_alone() -> None:
    layer = LoRALinear(nn.Linear(400, 4), {"up": 4}, ["up"], LoRAConfig(dropout=0.25, alpha=8.0))
    nn.init.ones_(layer.a)
    nn.init.ones_(layer.b["up"])
    x = torch.ones(1, 400)
    learned = (layer.train()(x) - layer.base(x)).mean().item() / 8  # the kept inputs, scaled
    kept = learned * 0.75
    assert kept == pytest.approx(round(kept), abs=1e-2)
    assert 250 < kept < 350
    torch.testing.assert_close(layer.eval()(x), layer.base(x) + 8 * 400.0)


# ---- a network ----


@pytest.mark.parametrize(("shape", "kind"), COMBINATIONS)
def test_merged_and_unmerged_agree(random_gpt: BuildGPT, shape: str, kind: str) -> None:
    model = random_gpt(**SHAPES[shape])
    names, before = set(model.state_dict()), logits_of(model)
    apply_lora(model, LoRAConfig(**KINDS[kind]))
    torch.testing.assert_close(logits_of(model), before, rtol=1e-5, atol=1e-5)
    stir(model)
    unmerged = logits_of(model)
    assert (unmerged - before).abs().max() > 0.05
    assert merge_lora(model) is model
    torch.testing.assert_close(logits_of(model), unmerged, rtol=1e-5, atol=1e-4)
    assert set(model.state_dict()) == names
    assert {type(m) for m in model.modules() if isinstance(m, nn.Linear)} == {nn.Linear, Head}
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("shape", "kind"), COMBINATIONS)
def test_only_what_is_beside_the_layers_trains(random_gpt: BuildGPT, shape: str, kind: str) -> None:
    model = apply_lora(random_gpt(**SHAPES[shape]), LoRAConfig(**KINDS[kind]))
    stir(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        f"{name}.{own}"
        for name, layer in lora_layers(model).items()
        for own, _ in layer.named_parameters()
        if not own.startswith("base.")
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    next_token_loss(model.hidden_states(IDS), model.lm_head, IDS).backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trained


def test_a_part_that_is_no_target_stays(random_gpt: BuildGPT) -> None:
    model = apply_lora(random_gpt(), LoRAConfig(targets=("attention.q", "attention.v")))
    stir(model)
    layer = model.blocks[0].attention.qkv
    x = torch.randn(3, 32)
    learned = (layer(x) - layer.base(x)).split(32, dim=1)
    assert [bool((part.abs() > 1e-6).any()) for part in learned] == [True, False, True]
    for name, part in zip("qv", learned[::2], strict=True):
        a, b = layer.part(name)
        torch.testing.assert_close(part, 2.0 * x @ a.T @ b.T, rtol=1e-4, atol=1e-5)


def test_float32_beside_bfloat16(random_gpt: BuildGPT) -> None:
    model = apply_lora(random_gpt(position="rotary").bfloat16(), LoRAConfig(use_dora=True))
    stir(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    exact = logits_of(merge_lora(apply_like(model, random_gpt(position="rotary"))))
    close = {"rtol": 0, "atol": 0.06 * exact.std().item()}
    torch.testing.assert_close(logits_of(model).float(), exact, **close)
    model(IDS).float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained)
    merge_lora(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits_of(model).float(), exact, **close)


def apply_like(model: GPT, other: GPT) -> GPT:
    """The same numbers, all of them in float32."""
    layer = next(iter(lora_layers(model).values()))
    apply_lora(other, layer.config).load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_under_autocast(random_gpt: BuildGPT, kind: str) -> None:
    model = apply_lora(random_gpt(), LoRAConfig(**KINDS[kind]))
    stir(model)
    exact = logits_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(IDS)
        F.cross_entropy(out.flatten(0, 1), IDS.flatten()).backward()
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.06 * exact.std().item())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_frozen_weights_in_a_smaller_type_than_the_rest(random_gpt: BuildGPT, kind: str) -> None:
    model = apply_lora(random_gpt(), LoRAConfig(**KINDS[kind]))
    stir(model)
    exact = logits_of(model)
    for layer in lora_layers(model).values():
        layer.round_base(torch.bfloat16)
    logits = logits_of(model)
    assert logits.dtype == torch.float32
    close = {"rtol": 0, "atol": 0.1 * exact.std().item()}
    torch.testing.assert_close(logits, exact, **close)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.blocks[0].mlp.up(torch.randn(3, 32)).dtype == torch.bfloat16
        torch.testing.assert_close(logits_of(model).float(), exact, **close)


def test_what_is_trained_restores_it_all(random_gpt: BuildGPT) -> None:
    model, again = random_gpt(), random_gpt()
    again.load_state_dict(model.state_dict())
    apply_lora(model, LoRAConfig(use_dora=True))
    stir(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    apply_lora(again, LoRAConfig(use_dora=True)).load_state_dict(trained, strict=False)
    assert torch.equal(logits_of(again), logits_of(model))


# ---- targets ----


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["attention.q"], {"0.attention.q", "1.attention.q"}),
        (["attention.qkv"], {f"{i}.attention.{part}" for i in "01" for part in "qkv"}),
        (["qkv", "q"], {f"{i}.attention.{part}" for i in "01" for part in "qkv"}),
        (["mlp"], {f"{i}.mlp.{part}" for i in "01" for part in ("up", "down")}),
        (["mlp.*"], {f"{i}.mlp.{part}" for i in "01" for part in ("up", "down")}),
        (["blocks.[1-9].*.out", "up"], {"1.attention.out", "0.mlp.up", "1.mlp.up"}),
        (["blocks.0.attention"], {f"0.attention.{part}" for part in ("q", "k", "v", "out")}),
    ],
)
def test_patterns(random_gpt: BuildGPT, targets: list[str], expected: set[str]) -> None:
    model = apply_lora(random_gpt(), LoRAConfig(targets=tuple(targets)))
    found = {
        f"{name.rpartition('.')[0]}.{part}"
        for name, layer in lora_layers(model).items()
        for part in layer.targets
    }
    assert found == {f"blocks.{name}" for name in expected}


def test_all_layers_of_the_blocks_are_the_default(random_gpt: BuildGPT) -> None:
    model = apply_lora(random_gpt(mlp="swiglu", tie_embeddings=False), LoRAConfig())
    assert len(lora_layers(model)) == 2 * 5
    assert isinstance(model.lm_head, Head)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mlp": "swiglu", "tie_embeddings": False},
            "target 'c_attn' of LoRA matches no layer; there are attention.q, attention.k, "
            "attention.v, attention.out, mlp.gate, mlp.up, mlp.down, lm_head",
        ),
        (
            {"mlp": "swiglu", "tie_embeddings": True, "num_experts": 2, "num_active_experts": 1},
            "target 'c_attn' of LoRA matches no layer; there are attention.q, attention.k, "
            "attention.v, attention.out; the experts' matrices lie in stacks, which are not "
            "supported; lm_head is the token embedding here, and no layer of its own",
        ),
    ],
)
def test_a_pattern_without_a_layer(
    random_gpt: BuildGPT, changes: dict[str, Any], message: str
) -> None:
    model = random_gpt(**changes)
    with pytest.raises(InputError) as caught:
        apply_lora(model, LoRAConfig(targets=("attention.q", "c_attn")))
    assert str(caught.value) == message
    assert lora_layers(model) == {}  # nothing was changed
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_second_time_is_refused(random_gpt: BuildGPT) -> None:
    model = apply_lora(random_gpt(), LoRAConfig())
    with pytest.raises(InputError, match="the network has LoRA already; merge it first"):
        apply_lora(model, LoRAConfig())


# ---- the configuration ----


def test_lists_become_tuples() -> None:
    config = LoRAConfig(targets=["mlp"])
    assert config.targets == ("mlp",)
    assert LoRAConfig(**asdict(config)) == config
    assert LoRAConfig(targets="mlp").targets == ("mlp",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank=0 of LoRA must be at least 1"),
        ({"alpha": 0.0}, "alpha=0.0 of LoRA must be above 0"),
        ({"dropout": 1.0}, "dropout=1.0 of LoRA must be at least 0 and below 1"),
        ({"targets": ()}, "targets of LoRA are empty; name layers, such as 'attention'"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        LoRAConfig(**values)
    assert str(caught.value) == message

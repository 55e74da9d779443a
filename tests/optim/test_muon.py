"""Muon for hidden matrices and AdamW for the rest: torch's own, as one optimiser."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz

from lit_gpt_kit import GPT, GPTConfig, MuonAdamW, WarmupCosine
from lit_gpt_kit.devices import cpu_instructions
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.optim.groups import decay_groups
from lit_gpt_kit.optim.muon import COEFFICIENTS, orthogonalize
from tests.tiny import TINY, make_task, make_trainer

CONFIG = GPTConfig(vocab_size=17, num_layers=2, num_heads=2, embed_dim=8, block_size=4)


INSTRUCTIONS = "lit_gpt_kit.optim.muon.cpu_instructions"


@pytest.fixture
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that torch works in, also where that is slow."""
    monkeypatch.setattr(INSTRUCTIONS, lambda: "some")


def assert_rounded_alike(mine: Tensor, other: Tensor, rtol: float = 0.0, atol: float = 0.0) -> None:
    if cpu_instructions() is not None:
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)
    else:  # bfloat16 is emulated: a stack of products is summed in another order than one product
        torch.testing.assert_close(mine, other, rtol=0.02, atol=0.01)


def draw_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def parts_of(model: GPT) -> dict[str, list[nn.Parameter]]:
    return {group["part"]: group["params"] for group in decay_groups(model.named_parameters())}


# ---- the step ----


@pytest.mark.usefixtures("_bfloat16")
def test_steps_are_those_of_torchs_two_optimisers() -> None:
    ours, theirs = GPT(CONFIG), GPT(CONFIG)
    theirs.load_state_dict(ours.state_dict())
    one = MuonAdamW(
        decay_groups(ours.named_parameters()),
        lr=0.02,
        weight_decay=0.1,
        momentum=0.9,
        adamw_lr=3e-3,
        adamw_weight_decay=0.2,
        betas=(0.8, 0.9),
        eps=1e-6,
    )
    parts = parts_of(theirs)
    muon = torch.optim.Muon(parts["hidden"], lr=0.02, weight_decay=0.1, momentum=0.9)
    rest = [{"params": parts["embeddings"]}, {"params": parts["vectors"], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(
        rest, lr=3e-3, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-6, fused=True
    )
    for step in range(5):
        draw_gradients(ours, step)
        draw_gradients(theirs, step)
        one.step()
        muon.step()
        adamw.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.usefixtures("_bfloat16")
@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 12, 4), (2, 4, 12), (1, 7, 3)])
def test_orthogonalize_is_torchs(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape)
    theirs = [_zeropower_via_newtonschulz(m, COEFFICIENTS, 5, 1e-7) for m in matrices]
    assert_rounded_alike(orthogonalize(matrices), torch.stack(theirs))


@pytest.mark.parametrize("instructions", ["AMX bf16", None])
def test_singular_values_become_about_one(
    instructions: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(INSTRUCTIONS, lambda: instructions)
    # Jordan et al.: whatever they were, they end in a band around 1.
    left, right = (torch.linalg.qr(torch.randn(32, 32)).Q for _ in range(2))
    matrix = left @ torch.diag(torch.logspace(-0.5, 1, 32)) @ right
    found = orthogonalize(matrix[None])[0]
    assert found.dtype == (torch.bfloat16 if instructions else torch.float32)
    values = torch.linalg.svdvals(found.float())
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3


def test_a_matrix_without_gradient_stays() -> None:
    model = GPT(CONFIG)
    before = copy.deepcopy(model.state_dict())
    optimizer = MuonAdamW(decay_groups(model.named_parameters()), weight_decay=0.1)
    model.blocks[0].mlp.up.weight.grad = torch.randn(32, 8)
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"blocks.0.mlp.up.weight"}


@pytest.mark.usefixtures("_bfloat16")
def test_experts_are_matrices_each() -> None:
    stack = nn.Parameter(torch.zeros(3, 4, 6))
    stack.grad = torch.randn(3, 4, 6)
    MuonAdamW([{"params": [stack], "part": "hidden"}], lr=1.0).step()
    for moved, gradient in zip(stack.detach(), stack.grad, strict=True):
        # What torch's Muon makes of each alone.
        alone = nn.Parameter(torch.zeros(4, 6))
        alone.grad = gradient
        torch.optim.Muon([alone], lr=1.0, weight_decay=0.0).step()
        assert_rounded_alike(moved, alone.detach(), rtol=1.3e-6, atol=1e-5)


# ---- groups ----


def test_every_part_has_its_rate_and_decay() -> None:
    groups = decay_groups(GPT(CONFIG).named_parameters())
    optimizer = MuonAdamW(groups, lr=0.5, weight_decay=0.1, adamw_lr=0.25, adamw_weight_decay=0.2)
    found = {
        group["name"]: (group["is_muon"], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    }
    assert found == {
        "hidden": (True, 0.5, 0.1),
        "embeddings": (False, 0.25, 0.2),
        "vectors": (False, 0.25, 0.0),
    }


def test_plain_parameters_are_told_apart_by_shape() -> None:
    layer = nn.Linear(3, 2)
    for params in (layer.parameters(), layer.named_parameters()):
        optimizer = MuonAdamW(params)
        muon, adamw = optimizer.param_groups
        assert muon["params"] == [layer.weight]
        assert muon["is_muon"]
        assert adamw["params"] == [layer.bias]
        assert not adamw["is_muon"]


def test_a_group_keeps_a_rate_of_its_own() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = MuonAdamW([{"params": [parameter], "part": "head", "lr": 0.125}])
    assert optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"lr": -1.0}, "lr=-1.0 must be at least 0"),
        ({"adamw_lr": float("nan")}, "adamw_lr=nan must be at least 0"),
        ({"momentum": 1.0}, "momentum=1.0 must be at least 0 and below 1"),
        ({"betas": (0.9, 1.5)}, "betas[1]=1.5 must be at least 0 and below 1"),
        ({"num_iterations": 0}, "num_iterations=0 must be at least 1"),
    ],
)
def test_values_out_of_range(values: Any, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        MuonAdamW([nn.Parameter(torch.ones(2, 2))], **values)
    assert str(caught.value) == complaint


def test_no_parameters() -> None:
    with pytest.raises(InputError, match="MuonAdamW got no parameters"):
        MuonAdamW([])


# ---- state ----


def test_a_saved_state_goes_on_as_it_would_have(tmp_path: Path) -> None:
    def walk(model: GPT, optimizer: MuonAdamW, steps: range) -> None:
        for step in steps:
            draw_gradients(model, step)
            optimizer.step()

    through = GPT(CONFIG)
    start = copy.deepcopy(through)
    walk(through, MuonAdamW(decay_groups(through.named_parameters())), range(6))

    optimizer = MuonAdamW(decay_groups(start.named_parameters()))
    walk(start, optimizer, range(3))
    torch.save([start.state_dict(), optimizer.state_dict()], tmp_path / "state")
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    again = GPT(CONFIG)
    again.load_state_dict(weights)
    fresh = MuonAdamW(decay_groups(again.named_parameters()))
    fresh.load_state_dict(state)
    walk(again, fresh, range(3, 6))
    for name, weight in through.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def batches(num: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, 17, (num, 2, 9), generator=generator)
    return [{"input_ids": row[:, :-1], "targets": row[:, 1:]} for row in rows]


def test_one_step_counts_as_one_and_accumulation_changes_nothing(tmp_path: Path) -> None:
    weights = []
    for accumulate in (1, 2):
        task = make_task(
            GPTConfig(**{**vars(TINY), "vocab_size": 17}), lambda params: MuonAdamW(params)
        )
        whole = batches(8)
        if accumulate == 1:
            whole = [
                {key: torch.cat([a[key], b[key]]) for key in a}
                for a, b in zip(whole[::2], whole[1::2], strict=True)
            ]
        trainer = make_trainer(tmp_path, 4, accumulate_grad_batches=accumulate)
        trainer.fit(task, torch.utils.data.DataLoader(whole, batch_size=None))
        assert trainer.global_step == 4
        weights.append(task.network.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=2e-2, atol=2e-3, msg=name)


def test_a_schedule_moves_every_rate() -> None:
    optimizer = MuonAdamW(decay_groups(GPT(CONFIG).named_parameters()), lr=0.5, adamw_lr=0.25)
    WarmupCosine(optimizer, warmup_steps=1, total_steps=10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125, 0.125]

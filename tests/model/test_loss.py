"""The next-token loss against F.cross_entropy and the closed form, whole and in slices."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_gpt_kit.model import memory
from lit_gpt_kit.model.loss import IGNORE_INDEX, MAX_LOGITS, next_token_loss

VOCAB, EMBED = 11, 6


def case(batch: int = 2, seq: int = 7) -> tuple[Tensor, nn.Linear, Tensor]:
    hidden = torch.randn(batch, seq, EMBED)
    targets = torch.randint(VOCAB, (batch, seq))
    targets[torch.rand(batch, seq) < 0.3] = IGNORE_INDEX
    head = nn.Linear(EMBED, VOCAB, bias=False)
    nn.init.normal_(head.weight)
    return hidden, head, targets


def loss_and_gradients(
    hidden: Tensor, head: nn.Linear, targets: Tensor, max_logits: int = 2**26
) -> list[Tensor]:
    leaf = hidden.clone().requires_grad_()
    loss = next_token_loss(leaf, head, targets, max_logits)
    return [loss.detach(), *torch.autograd.grad(loss, [leaf, head.weight])]


def assert_relatively_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).norm() <= 1e-6 * e.norm()


def test_ignore_index_is_torchs() -> None:
    assert nn.CrossEntropyLoss().ignore_index == IGNORE_INDEX


def test_memory_is_planned_for_as_many_logits_as_are_held() -> None:
    assert memory.MAX_LOGITS == MAX_LOGITS


@pytest.mark.parametrize("tokens_at_once", [3, 100])
def test_is_the_closed_form(tokens_at_once: int) -> None:
    hidden, head, targets = case()
    expected = 0.0
    for h, target in zip(hidden.flatten(0, 1).double(), targets.flatten().tolist(), strict=True):
        if target != IGNORE_INDEX:
            odds = [math.exp(h.dot(w)) for w in head.weight.detach().double()]
            expected -= math.log(odds[target] / sum(odds))
    loss = next_token_loss(hidden, head, targets, tokens_at_once * VOCAB)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_knowing_nothing_costs_log_vocab_per_target() -> None:
    hidden, head, targets = torch.zeros(2, 5, EMBED), case()[1], torch.zeros(2, 5).long()
    targets[0, :3] = IGNORE_INDEX
    assert next_token_loss(hidden, head, targets).item() == pytest.approx(7 * math.log(VOCAB))


def test_equals_cross_entropy_in_value_and_gradients() -> None:
    hidden, head, targets = case()
    leaf = hidden.clone().requires_grad_()
    expected = F.cross_entropy(head(leaf).flatten(0, 1), targets.flatten(), reduction="sum")
    gradients = torch.autograd.grad(expected, [leaf, head.weight])
    actual = loss_and_gradients(hidden, head, targets)
    assert_relatively_close(actual, [expected.detach(), *gradients])


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 3), seq=st.integers(1, 9), max_logits=st.integers(1, 10 * VOCAB))
def test_sliced_equals_whole_in_value_and_gradients(batch: int, seq: int, max_logits: int) -> None:
    hidden, head, targets = case(batch, seq)
    whole = loss_and_gradients(hidden, head, targets)
    assert_relatively_close(loss_and_gradients(hidden, head, targets, max_logits), whole)


@pytest.mark.parametrize("max_logits", [1, 3 * VOCAB, 2**26])
def test_all_ignored_costs_nothing(max_logits: int) -> None:
    hidden, head, targets = case()
    results = loss_and_gradients(hidden, head, torch.full_like(targets, IGNORE_INDEX), max_logits)
    assert all(torch.equal(r, torch.zeros_like(r)) for r in results)


@pytest.mark.parametrize(
    ("tokens_at_once", "forward", "backward"),
    [(14, [14], []), (5, [5, 5, 4], [4, 5, 5])],
    ids=["whole", "sliced"],
)
def test_slices_bound_the_logits_and_are_made_again(
    tokens_at_once: int, forward: list[int], backward: list[int]
) -> None:
    hidden, head, targets = case()
    made: list[int] = []
    head.register_forward_hook(lambda _, __, logits: made.append(logits.numel() // VOCAB))
    # One logit short of another token.
    loss = next_token_loss(
        hidden.requires_grad_(), head, targets, tokens_at_once * VOCAB + VOCAB - 1
    )
    assert made == forward
    made.clear()
    loss.backward()
    assert made == backward


@pytest.mark.parametrize("max_logits", [3 * VOCAB, 2**26])
def test_low_precision_logits_are_summed_in_float32(max_logits: int) -> None:
    hidden, head, targets = case()
    hidden, head = hidden.bfloat16(), head.bfloat16()
    logits = head(hidden).float().flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), reduction="sum")
    loss = next_token_loss(hidden, head, targets, max_logits)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)

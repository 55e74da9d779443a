"""Attention against torch.nn.MultiheadAttention and the closed form in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_gpt_kit.model.attention import CausalSelfAttention
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.positions import RotaryPositions
from lit_gpt_kit.model.view import View, view_row

EMBED, HEADS, SEQ = 16, 4, 6


def build(**changes: Any) -> CausalSelfAttention:
    shape = {"embed_dim": EMBED, "num_heads": HEADS, "block_size": SEQ}
    return CausalSelfAttention(GPTConfig(**(shape | changes)), layer=0).eval()


def attend_by_hand(attention: CausalSelfAttention, x: Tensor, mask: Tensor) -> Tensor:
    """The definition, one query of one head at a time; `mask` is (batch, seq, seq)."""
    batch, seq, _ = x.shape
    heads, kv_heads, dim = attention.num_heads, attention.num_kv_heads, attention.head_dim
    qkv = x @ attention.qkv.weight.T + attention.qkv.bias
    q = qkv[..., : heads * dim].view(batch, seq, heads, dim)
    k = qkv[..., heads * dim : (heads + kv_heads) * dim].view(batch, seq, kv_heads, dim)
    v = qkv[..., (heads + kv_heads) * dim :].view(batch, seq, kv_heads, dim)
    if attention.q_norm is not None and attention.k_norm is not None:
        q = q / (q.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.q_norm.weight
        k = k / (k.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.k_norm.weight
    mixed = torch.zeros(batch, seq, heads, dim, dtype=x.dtype)
    for b in range(batch):
        for h in range(heads):
            kv = h // (heads // kv_heads)
            for t in range(seq):
                seen = [s for s in range(seq) if mask[b, t, s]]
                odds = [math.exp(q[b, t, h].dot(k[b, s, kv]) / math.sqrt(dim)) for s in seen]
                for s, odd in zip(seen, odds, strict=True):
                    mixed[b, t, h] += odd / sum(odds) * v[b, s, kv]
    return mixed.flatten(2) @ attention.out.weight.T + attention.out.bias


@torch.no_grad()
@pytest.mark.parametrize("use_qk_norm", [False, True])
@pytest.mark.parametrize("head_dim", [None, 6])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_is_the_closed_form(num_kv_heads: int, head_dim: int | None, use_qk_norm: bool) -> None:
    attention = build(num_kv_heads=num_kv_heads, head_dim=head_dim, use_qk_norm=use_qk_norm)
    for parameter in attention.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, SEQ, EMBED).double()
    causal = torch.ones(2, SEQ, SEQ).tril()
    expected = attend_by_hand(attention, x, causal)
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_mask_is_the_closed_form() -> None:
    attention, x = build(num_kv_heads=2).double(), torch.randn(2, SEQ, EMBED).double()
    mask = (torch.rand(2, SEQ, SEQ) < 0.5) | torch.eye(SEQ, dtype=torch.bool)
    expected = attend_by_hand(attention, x, mask)
    torch.testing.assert_close(
        attention(x, View(mask=mask[:, None], is_causal=False)), expected, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("use_bias", [True, False])
def test_agrees_with_torch_in_value_and_gradients(use_bias: bool) -> None:
    ours = build(use_bias=use_bias)
    theirs = nn.MultiheadAttention(EMBED, HEADS, bias=use_bias, batch_first=True)
    weights = {"in_proj_weight": ours.qkv.weight, "out_proj.weight": ours.out.weight}
    if use_bias:
        weights |= {"in_proj_bias": ours.qkv.bias, "out_proj.bias": ours.out.bias}
    theirs.load_state_dict(weights)
    x, upstream = torch.randn(3, SEQ, EMBED), torch.randn(3, SEQ, EMBED)

    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    future = torch.ones(SEQ, SEQ, dtype=torch.bool).triu(1)
    ours_out = ours(ours_x)
    theirs_out, _ = theirs(theirs_x, theirs_x, theirs_x, attn_mask=future, need_weights=False)
    ours_out.backward(upstream)
    theirs_out.backward(upstream)
    torch.testing.assert_close(ours_out, theirs_out)
    torch.testing.assert_close(ours_x.grad, theirs_x.grad)
    torch.testing.assert_close(ours.qkv.weight.grad, theirs.in_proj_weight.grad)
    torch.testing.assert_close(ours.out.weight.grad, theirs.out_proj.weight.grad)


@torch.no_grad()
@pytest.mark.parametrize("position", ["none", "rotary"])
@pytest.mark.parametrize("use_qk_norm", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_grouped_query_is_multi_head_with_repeated_keys_and_values(
    num_kv_heads: int, use_qk_norm: bool, position: Any
) -> None:
    grouped = build(num_kv_heads=num_kv_heads, use_qk_norm=use_qk_norm, position=position)
    full = build(use_qk_norm=use_qk_norm, position=position)

    def repeat(packed: Tensor) -> Tensor:
        q, k, v = packed.split([EMBED, num_kv_heads * 4, num_kv_heads * 4])
        k, v = (
            part.unflatten(0, (num_kv_heads, 4)).repeat_interleave(HEADS // num_kv_heads, 0)
            for part in (k, v)
        )
        return torch.cat([q, k.flatten(0, 1), v.flatten(0, 1)])

    weights = grouped.state_dict()
    full.load_state_dict(
        weights | {"qkv.weight": repeat(grouped.qkv.weight), "qkv.bias": repeat(grouped.qkv.bias)}
    )
    x, rotary = torch.randn(2, SEQ, EMBED), None
    if position == "rotary":
        rotary = RotaryPositions(GPTConfig(block_size=SEQ, head_dim=4), 1e4)(torch.arange(SEQ), SEQ)
    view = View(rotary=rotary)
    torch.testing.assert_close(grouped(x, view), full(x, view))


@torch.no_grad()
def test_qk_norm_takes_the_scale_of_queries_and_keys_away() -> None:
    normed, plain = build(use_qk_norm=True, use_bias=False), build(use_bias=False)
    x = torch.randn(2, SEQ, EMBED)
    for attention, changes in ((normed, False), (plain, True)):
        before = attention(x)
        attention.qkv.weight[: 2 * EMBED] *= 30
        # The norm's eps still sees the scale a little.
        assert torch.allclose(attention(x), before, atol=1e-3) is not changes


@torch.no_grad()
def test_rotary_positions_break_the_symmetry_of_earlier_tokens() -> None:
    attention, x = build(position="rotary"), torch.randn(1, SEQ, EMBED)
    swapped = x[:, [1, 0, *range(2, SEQ)]]
    rotary = RotaryPositions(GPTConfig(block_size=SEQ, head_dim=4), 1e4)(torch.arange(SEQ), SEQ)
    torch.testing.assert_close(attention(x)[:, -1], attention(swapped)[:, -1])
    view = View(rotary=rotary)
    apart = attention(x, view)[:, -1] - attention(swapped, view)[:, -1]
    assert apart.abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("place", ["weights", "output"])
def test_dropout_only_in_training(place: str) -> None:
    attention, x = build(dropout=0.25), torch.randn(500, 1, EMBED)
    # A lone token attends to itself alone: the output is its value, 1.
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    attention.qkv.bias[2 * EMBED :] = 1
    attention.out.weight.copy_(torch.eye(EMBED))
    assert torch.equal(attention(x), torch.ones_like(x))

    attention.train()
    if place == "weights":
        attention.dropout.p = 0.0
    else:
        attention.dropout_p = 0.0
    dropped = attention(x)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.04)
    # Dropped weights silence a whole head, dropped outputs single numbers.
    heads = dropped.view(500, HEADS, -1)
    assert (heads == heads[..., :1]).all().item() is (place == "weights")


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["causal", "documents", "everything"])
def test_what_is_quicker_in_training_is_the_same(num_kv_heads: int, kind: str) -> None:
    """On a CPU, training in bfloat16 spells attention out; torch's kernel in float32 agrees."""
    torch.manual_seed(0)
    config = GPTConfig(7, num_heads=4, num_kv_heads=num_kv_heads, embed_dim=32, block_size=16)
    attention = CausalSelfAttention(config, layer=0).to(torch.bfloat16)
    exact = CausalSelfAttention(config, layer=0).double()
    exact.load_state_dict(attention.state_dict())
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    view = {
        "causal": View(),
        "documents": view_row(12, None, documents, torch.device("cpu")),
        "everything": View(is_causal=False),
    }[kind]
    x = torch.randn(2, 12, 32).to(torch.bfloat16)
    outs = []
    for layer in (attention, exact):
        given = x.detach().to(layer.out.weight.dtype).requires_grad_()
        out = layer(given, view)
        out.square().sum().backward()
        assert given.grad is not None
        outs.append((out.double(), given.grad.double(), layer.qkv.weight.grad.double()))  # type: ignore[union-attr]
    for quick, slow in zip(*outs, strict=True):
        assert torch.linalg.vector_norm(quick - slow) < 0.02 * torch.linalg.vector_norm(slow)

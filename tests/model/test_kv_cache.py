"""The cache: what it stores, and that reading from it changes no logits."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.model.config import GPTConfig, PositionKind
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.kv_cache import KVCache

POSITIONS = get_args(PositionKind)
KV_HEADS = [1, 2, 4]
CONFIG = GPTConfig(num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=12)


def test_room_is_one_slot_per_token() -> None:
    cache = KVCache(CONFIG, batch_size=5, max_len=7, dtype=torch.bfloat16)
    assert cache.keys.shape == cache.values.shape == (2, 5, 2, 7, 3)
    assert cache.keys.dtype == cache.values.dtype == torch.bfloat16
    assert cache.lengths.tolist() == [0] * 5


def test_positions_continue_each_row() -> None:
    cache = KVCache(CONFIG, batch_size=3, max_len=9)
    cache.lengths = torch.tensor([0, 4, 2])
    assert cache.positions(3).tolist() == [[0, 1, 2], [4, 5, 6], [2, 3, 4]]


def test_a_token_sees_itself_and_those_before() -> None:
    cache = KVCache(CONFIG, batch_size=2, max_len=4)
    visible = cache.visible(torch.tensor([[0, 1], [2, 3]]))
    assert visible.int().tolist() == [
        [[[1, 0, 0, 0], [1, 1, 0, 0]]],
        [[[1, 1, 1, 0], [1, 1, 1, 1]]],
    ]


def test_write_puts_each_token_in_its_slot_of_its_layer() -> None:
    cache = KVCache(CONFIG, batch_size=2, max_len=5)
    k, v = torch.randn(2, 2, 2, 2, 3)
    keys, values = cache.write(1, torch.tensor([[0, 1], [3, 4]]), k, v)
    expected_keys, expected_values = torch.zeros(2, 2, 2, 5, 3)
    for row, start in ((0, 0), (1, 3)):
        expected_keys[row, :, start : start + 2] = k[row]
        expected_values[row, :, start : start + 2] = v[row]
    assert torch.equal(keys, expected_keys)
    assert torch.equal(values, expected_values)
    assert torch.equal(cache.keys[1], expected_keys)
    assert torch.equal(cache.values[1], expected_values)
    assert not cache.keys[0].any()
    assert not cache.values[0].any()


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[4, *[1] * 7], [6, 5]], ids=["one-by-one", "two-chunks"])
@pytest.mark.parametrize("num_kv_heads", KV_HEADS)
@pytest.mark.parametrize("position", POSITIONS)
def test_cached_logits_are_the_uncached(
    random_gpt: Callable[..., GPT], position: str, num_kv_heads: int, chunks: list[int]
) -> None:
    model = random_gpt(position=position, num_kv_heads=num_kv_heads)
    tokens = torch.randint(17, (2, 11))
    cache = KVCache(model.config, batch_size=2, max_len=13)
    logits = [model(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens), rtol=1e-4, atol=1e-5)
    assert cache.lengths.tolist() == [11, 11]


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda c: sum(c) <= 16))
def test_chunks_of_any_size_agree(random_gpt: Callable[..., GPT], chunks: list[int]) -> None:
    model = random_gpt(position="rotary", num_kv_heads=2, use_qk_norm=True)
    tokens = torch.randint(17, (1, sum(chunks)))
    cache = KVCache(model.config, batch_size=1, max_len=16)
    logits = [model(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("num_kv_heads", KV_HEADS)
@pytest.mark.parametrize("position", POSITIONS)
def test_padded_prompts_continue_as_each_alone(
    random_gpt: Callable[..., GPT], position: str, num_kv_heads: int
) -> None:
    model = random_gpt(position=position, num_kv_heads=num_kv_heads)
    lengths = torch.tensor([3, 7, 1, 5])
    prompts, continuation = torch.randint(17, (4, 7)), torch.randint(17, (4, 4))
    cache = KVCache(model.config, batch_size=4, max_len=12)
    padded = model(prompts, cache=cache)
    cache.lengths = lengths.clone()
    steps = [model(continuation[:, t : t + 1], cache=cache) for t in range(4)]
    continued = torch.cat(steps, dim=1)
    for row, length in enumerate(lengths.tolist()):
        alone = model(torch.cat([prompts[row, :length], continuation[row]])[None])[0]
        torch.testing.assert_close(padded[row, :length], alone[:length], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(continued[row], alone[length:], rtol=1e-4, atol=1e-5)
    assert cache.lengths.tolist() == [7, 11, 5, 9]


@torch.no_grad()
def test_slots_beyond_a_row_are_never_attended_to(random_gpt: Callable[..., GPT]) -> None:
    model, tokens = random_gpt(), torch.randint(17, (1, 8))
    cache = KVCache(model.config, batch_size=1, max_len=16)
    cache.keys.fill_(1e3)
    cache.values.fill_(1e3)
    torch.testing.assert_close(model(tokens, cache=cache), model(tokens), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_bfloat16_cache_serves_a_float32_network(random_gpt: Callable[..., GPT]) -> None:
    model, tokens = random_gpt(position="rotary"), torch.randint(17, (2, 9))
    cache = KVCache(model.config, batch_size=2, max_len=9, dtype=torch.bfloat16)
    logits = model(tokens, cache=cache)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(tokens), rtol=0, atol=0.02)

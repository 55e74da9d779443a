"""Memory of one device among several, in closed form."""

from dataclasses import replace
from typing import Any

import pytest

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.memory import memory_to_train
from lit_gpt_kit.model.size import count_parameters
from lit_gpt_kit.parallel.memory import Layout, cut, memory_per_device

LLAMA: dict[str, Any] = {
    "position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False,
    "tie_embeddings": False,
}  # fmt: skip
LLAMA_70B = GPTConfig(
    vocab_size=128256, block_size=8192, num_layers=80, num_heads=64, num_kv_heads=8,
    embed_dim=8192, mlp_dim=28672, **LLAMA,
)  # fmt: skip
BLOCK = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672


def test_one_device_is_all_of_it() -> None:
    config = GPTConfig(vocab_size=60, block_size=32)
    one = memory_to_train(config, "fp32", 2, 32)
    assert memory_per_device(config, Layout(), "fp32", 2, 32) == one


def test_copies_send_their_gradients_from_buffers() -> None:
    config = GPTConfig(vocab_size=60, block_size=32)
    one = memory_to_train(config, "fp32", 2, 32)
    found = memory_per_device(config, Layout(data_parallel=8), "fp32", 2, 32)
    assert found == replace(one, buffers=4 * count_parameters(config))


def test_shards_of_70b() -> None:
    layout = Layout(data_parallel=64, is_sharded=True)
    found = memory_per_device(LLAMA_70B, layout, "bf16-mixed", 1, 8192)
    assert found.weights == 4 * 70_553_706_496 // 64
    assert found.gradients == found.weights
    assert found.optimizer == 2 * 4 * 70_553_706_496 // 64
    ends = 70_553_706_496 - 80 * BLOCK
    assert found.buffers == 2 * 2 * BLOCK + 4 * ends + 2 * BLOCK + 4 * ends
    one = memory_to_train(LLAMA_70B, "bf16-mixed", 1, 8192)
    assert (found.activations, found.logits) == (one.activations, one.logits)


def test_tensor_parallel_cuts_the_layers() -> None:
    eighth = cut(LLAMA_70B, 8)
    norms_and_ends = 70_553_706_496 - 80 * BLOCK
    assert count_parameters(eighth) == norms_and_ends + 80 * BLOCK // 8
    layout = Layout(tensor_parallel=8)
    assert layout.num_devices == 8
    found = memory_per_device(LLAMA_70B, layout, "bf16", 1, 512)
    assert found.gradients == 2 * count_parameters(eighth)
    one = memory_to_train(LLAMA_70B, "bf16", 1, 512)
    assert one.activations / 8 < found.activations < one.activations


@pytest.mark.parametrize("ranks", [2, 4])
def test_adapters_gather_their_base(ranks: int) -> None:
    layout = Layout(data_parallel=ranks, is_sharded=True)
    found = memory_per_device(LLAMA_70B, layout, "bf16", 1, 512, lora_rank=8)
    assert found.weights == 2 * 70_553_706_496 // ranks
    assert found.gradients < found.weights / 500

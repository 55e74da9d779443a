"""What cannot be cut over devices is said in one line."""

from dataclasses import replace

import pytest

from lit_gpt_kit import GPTConfig
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.parallel.tensor import check_tensor_parallel

CONFIG = GPTConfig(31, num_layers=1, num_heads=6, num_kv_heads=2, embed_dim=24, mlp_dim=96)
EXPERTS = GPTConfig(
    31, num_layers=1, num_heads=6, embed_dim=24, mlp_dim=96, mlp="swiglu", num_experts=4
)


@pytest.mark.parametrize(
    ("config", "size", "has_adapters", "complaint"),
    [
        (CONFIG, 4, False, "tensor_parallel_size=4 does not divide num_heads=6"),
        (CONFIG, 3, False, "tensor_parallel_size=3 does not divide num_kv_heads=2"),
        (CONFIG, 2, True, "tensor_parallel_size=2 does not cut layers with adapters"),
        (
            replace(CONFIG, value_embedding_layers=(0,)),
            2,
            False,
            r"does not cut value embeddings \(value_embedding_layers=\[0\]\)",
        ),
        (EXPERTS, 2, False, r"does not cut a mixture of experts \(num_experts=4\)"),
    ],
)
def test_what_cannot_be_cut(
    config: GPTConfig, size: int, has_adapters: bool, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        check_tensor_parallel(config, size, has_adapters)


@pytest.mark.parametrize(("config", "size"), [(CONFIG, 2), (CONFIG, 1), (EXPERTS, 1)])
def test_what_can_be_cut(config: GPTConfig, size: int) -> None:
    check_tensor_parallel(config, size, has_adapters=size == 1)

"""Other ways to run a network: the loss and the gradients of the plain way, bit for bit."""

import json
import subprocess
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_gpt_kit.model.execution import ExecutionConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.kv_cache import KVCache
from tests.conftest import REPOSITORY
from tests.model.compiled_cases import CASES, SHAPE, build, step
from tests.warm.python import warm_python

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


class CountProducts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in PRODUCTS
        return func(*args, **(kwargs or {}))


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected) > 10
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert any(e.any() for e in expected[1:])


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("is_bf16", [False, True])
@pytest.mark.parametrize("kind", ["selective", "full"])
def test_activations_made_twice_change_nothing(kind: Any, is_bf16: bool, lora: bool) -> None:
    execution = ExecutionConfig(activation_checkpointing=kind)
    changes = {"dropout": 0.2, "position": "rotary"}
    expected = step(build(lora=lora, **changes), is_bf16)
    assert_same(step(build(execution, lora, **changes), is_bf16), expected)


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_packed_rows_and_windows_too(kind: Any) -> None:
    execution = ExecutionConfig(activation_checkpointing=kind)
    changes = {"sliding_window": 3, "attention_pattern": ("window", "full")}
    assert_same(
        step(build(execution, **changes), documents=True), step(build(**changes), documents=True)
    )


def test_full_makes_every_product_of_the_blocks_twice_and_selective_none() -> None:
    counts = {}
    for kind in ("none", "selective", "full"):
        model = build(ExecutionConfig(activation_checkpointing=kind))
        with CountProducts() as products:
            step(model)
        counts[kind] = products.count
    assert counts["selective"] == counts["none"]
    # qkv, out, up, down; what makes the last of them is not needed to go backward.
    assert counts["full"] == counts["none"] + SHAPE["num_layers"] * 3


def bytes_kept(model: GPT) -> int:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden_states(torch.randint(17, (4, 16)))
    own = {p.data_ptr() for p in model.parameters()}
    return sum({t.data_ptr(): t.nbytes for t in kept if t.data_ptr() not in own}.values())


def test_full_keeps_a_blocks_input_alone() -> None:
    stream = 4 * 16 * 32 * 4
    full = ExecutionConfig(activation_checkpointing="full")
    kept = [bytes_kept(build(full, num_layers=number)) for number in (3, 4)]
    assert kept[1] - kept[0] == stream
    assert bytes_kept(build(num_layers=4)) - bytes_kept(build(num_layers=3)) > 10 * stream


def test_nothing_is_made_twice_where_nothing_goes_backward() -> None:
    model = build(ExecutionConfig(activation_checkpointing="full")).eval()
    ids = torch.randint(17, (1, 9))
    with torch.no_grad():
        cache = KVCache(model.config, 1, 16)
        model(ids[:, :8], cache=cache)
        torch.testing.assert_close(model(ids[:, 8:], cache=cache)[:, 0], model(ids)[:, -1])


# ---- compiled ----


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    """Found in another process: the compiler cannot read the checks that tests put on shapes."""
    command = [warm_python(), "-m", "tests.model.compiled_cases"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_compiled_blocks_are_one_graph_with_the_same_numbers(
    case: str, compiled: dict[str, Any]
) -> None:
    # One for all layers. One more for all lengths but the first, and one more for all layers but
    # the first of a frozen network, whose input needs no gradient.
    num_graphs = 2 if case in ("rows of other lengths", "adapters") else 1
    assert compiled[case] == {"same": True, "graphs": num_graphs, "names_changed": []}


@pytest.mark.slow
def test_nothing_is_compiled_for_generating(compiled: dict[str, Any]) -> None:
    assert compiled["generating"] == {"graphs": 0, "same": True}


@pytest.mark.slow
def test_a_compiler_that_is_not_there(compiled: dict[str, Any]) -> None:
    assert compiled["without a compiler"] == (
        "execution.compile=true needs a C++ compiler (g++), and none that works is here; install "
        "it, or leave compile out"
    )

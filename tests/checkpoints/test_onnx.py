"""onnxruntime computes with an exported graph what our network computes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from transformers import AutoTokenizer

from lit_gpt_kit import GPT, GPTConfig
from lit_gpt_kit.checkpoints.onnx import OPSET, export_onnx, write_onnx
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import RopeScaling
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

TOLERANCE = 1e-4
BLOCK = 24
SIZES = {"vocab_size": 257, "num_layers": 2, "num_heads": 4, "embed_dim": 32, "block_size": BLOCK}
LLAMA: dict[str, Any] = {
    "position": "rotary",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "use_bias": False,
    "num_kv_heads": 2,
}
WINDOWS: dict[str, Any] = {"attention_pattern": ("window", "full"), "sliding_window": 5}
LONGROPE = RopeScaling(
    kind="longrope",
    factor=3.0,
    original_block_size=8,
    short_factors=(1.0, 1.5, 2.0, 2.5),
    long_factors=(2.0, 4.0, 6.0, 8.0),
)
SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": LLAMA,
    "windows": LLAMA | WINDOWS,
    "caps": LLAMA
    | WINDOWS
    | {
        "mlp": "geglu_tanh",
        "attention_softcap": 2.0,
        "logit_softcap": 3.0,
        "use_norm_offset": True,
        "norm_placement": "both",
        "scale_embeddings": True,
        "tie_embeddings": False,
    },
    "experts": LLAMA | {"num_experts": 4, "expert_dim": 20, "dense_layers": (1,)},
    "longrope": LLAMA | {"rope_scaling": LONGROPE},
    "token shift": LLAMA | {"use_token_shift": True},
    "value embeddings": LLAMA | {"value_embedding_layers": (1,)},
    "sinusoidal": {"position": "sinusoidal", "mlp": "relu2", "use_qk_norm": True},
}
ROWS = [(1, 1), (2, 3), (1, BLOCK), (3, 17), (5, 4), (2, 5), (2, 6)]
"""Batch and sequence; the graph is traced with (2, 3)."""


@pytest.fixture(autouse=True)
def unchecked_shapes() -> Iterator[None]:
    """A traced length is no `int`, which the tests' check of annotations does not know."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def build(**changes: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**(SIZES | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def largest_difference(model: GPT, folder: Path) -> float:
    session = InferenceSession(folder / "model.onnx")
    differences = []
    for batch, seq in ROWS:
        ids = torch.randint(257, (batch, seq), generator=torch.Generator().manual_seed(seq))
        (theirs,) = session.run(["logits"], {"input_ids": ids.numpy()})
        with torch.no_grad():
            differences.append((torch.tensor(theirs) - model(ids)).abs().max().item())
    return max(differences)


def test_a_graph_computes_what_the_network_does(
    byte_tokenizer: Tokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, out = build(num_layers=1, dropout=0.3).train(), tmp_path / "out"
    assert export_onnx(model, byte_tokenizer, out) == "gpt2"
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert largest_difference(model.eval(), out) <= TOLERANCE
    assert {path.name for path in out.iterdir()} == {
        *("model.onnx", "config.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    ids = AutoTokenizer.from_pretrained(out)("Salut, 世界").input_ids
    assert ids == byte_tokenizer.encode("Salut, 世界")

    graph = onnx.load(out / "model.onnx")
    onnx.checker.check_model(graph)
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == OPSET
    (taken,), (given,) = graph.graph.input, graph.graph.output
    assert (taken.name, given.name) == ("input_ids", "logits")
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.INT64
    axes = [axis.dim_param or axis.dim_value for axis in given.type.tensor_type.shape.dim]
    assert axes == ["batch", "sequence", 257]
    assert str(Path(__file__).parents[2]).encode() not in (out / "model.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_graphs_of_all_kinds(shape: str, byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = build(**SHAPES[shape])
    family = write_onnx(model, byte_tokenizer, tmp_path)
    assert largest_difference(model, tmp_path) <= TOLERANCE
    assert (tmp_path / "config.json").exists() == (family is not None)
    assert (tmp_path / "tokenizer.json").exists()


@pytest.mark.slow
def test_large_weights_lie_in_a_file_of_their_own(
    byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model, (before, after) = build(num_layers=1), (tmp_path / "before", tmp_path / "after")
    before.mkdir()
    write_onnx(model, byte_tokenizer, before, largest_file_bytes=1000)
    assert (before / "model.onnx.data").stat().st_size > 40_000
    before.rename(after)  # as export_onnx does
    assert largest_difference(model, after) <= TOLERANCE


@pytest.mark.slow
def test_half_precision(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = build(num_layers=1, **LLAMA).half()
    write_onnx(model, byte_tokenizer, tmp_path)
    assert largest_difference(model, tmp_path) <= 0.02


@torch.no_grad()
def test_experts_of_a_graph_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(**SHAPES["experts"]), torch.arange(BLOCK)[None]
    expected = model(ids)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(model(ids), expected, rtol=1e-5, atol=1e-5)


def test_without_the_libraries_it_says_which(
    byte_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = "lit_gpt_kit.checkpoints.onnx.find_spec"
    monkeypatch.setattr(found, lambda name: None if name == "onnxscript" else sys)
    with pytest.raises(InputError) as caught:
        export_onnx(build(), byte_tokenizer, tmp_path / "out")
    assert str(caught.value) == (
        "exporting to ONNX needs onnxscript; pip install 'lit-gpt-kit[onnx]'"
    )
    assert list(tmp_path.iterdir()) == []

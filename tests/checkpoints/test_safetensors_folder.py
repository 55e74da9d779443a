"""The tensors of a folder: shards, damage at every offset, and the memory that loading takes."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lit_gpt_kit import load_model
from lit_gpt_kit.checkpoints import safetensors_folder
from lit_gpt_kit.checkpoints.safetensors_folder import INDEX, SINGLE, SafetensorsFolder
from lit_gpt_kit.errors import InputError
from tests.transformers_models import build, save


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("gpt2", "plain"), tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def damaged(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose weights each example writes anew."""
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp("damaged") / "model"))


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    source = SafetensorsFolder(folder)
    return {name: torch.cat(list(source.pieces(name, torch.float32))) for name in source.names()}


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- reading ----


def test_tensors_are_those_of_the_library(whole: Path) -> None:
    expected = load_file(whole / SINGLE)
    source = SafetensorsFolder(whole)
    assert set(source.names()) == set(expected)
    assert {n: source.shape(n) for n in expected} == {
        n: tuple(t.shape) for n, t in expected.items()
    }
    for name, tensor in read_all(whole).items():
        assert torch.equal(tensor, expected[name])
        mapped = source.mapped(name, torch.float32)
        assert mapped is not None
        assert torch.equal(mapped, expected[name])
        assert source.mapped(name, torch.bfloat16) is None


@pytest.mark.parametrize("piece_bytes", [1, 300, 1000])
def test_large_tensors_come_in_pieces(
    whole: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(safetensors_folder, "PIECE_BYTES", piece_bytes)
    expected = load_file(whole / SINGLE)
    source = SafetensorsFolder(whole)
    pieces = list(source.pieces("transformer.wte.weight", torch.float32))
    assert len(pieces) == -(-300 // max(1, piece_bytes // (4 * 32)))
    assert torch.equal(torch.cat(pieces), expected["transformer.wte.weight"])
    for name, tensor in read_all(whole).items():
        assert torch.equal(tensor, expected[name])


# ---- an index ----


def split(folder: Path, num_shards: int = 2) -> dict[str, str]:
    """The folder's weights over shards with an index; gives the index's map."""
    tensors = load_file(folder / SINGLE)
    places = {
        name: f"model-{1 + i % num_shards:05d}-of-{num_shards:05d}.safetensors"
        for i, name in enumerate(tensors)
    }
    for file in set(places.values()):
        save_file({n: t for n, t in tensors.items() if places[n] == file}, folder / file)
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return places


def test_shards_are_one_set_of_tensors(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    split(folder, 5)
    expected = load_file(whole / SINGLE)
    got = read_all(folder)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_shard_that_lacks_its_tensor_is_named(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    places = split(folder)
    name = "transformer.ln_f.bias"
    other = next(file for file in places.values() if file != places[name])
    (folder / INDEX).write_text(json.dumps({"weight_map": places | {name: other}}))
    assert refusal(folder) == (
        f"{folder / other} has no tensor '{name}', which {INDEX} says it holds"
    )


def test_a_shard_cut_short_is_named(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    path = folder / max(split(folder).values())
    path.write_bytes(path.read_bytes()[:-5])
    assert refusal(folder).startswith(f"{path} is not a whole safetensors file (")


@pytest.mark.parametrize(
    "place",
    ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "", "./a/../../x"],
)
def test_an_index_may_name_no_file_elsewhere(whole: Path, tmp_path: Path, place: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "sub").mkdir()
    shutil.copy(folder / SINGLE, folder / "sub" / SINGLE)
    shutil.copy(folder / SINGLE, folder.parent / "other.safetensors")
    names = load_file(folder / SINGLE)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, place)}))
    message = refusal(folder)
    assert "outside its folder; it was not read" in message or "is missing" in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"metadata": {}}',
        '{"weight_map": []}',
        '{"weight_map": null}',
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": null}}',
        '{"weight_map": {"a": ["b"]}}',
        '{"weight_map": {"a": "\\u0000"}}',
        '{"weight_map": {"a": "' + "x" * 5000 + '"}}',
        "[" * 100_000,
        "\xff",
    ],
    ids=lambda text: text[:24],
)
def test_an_index_that_is_none_is_refused(whole: Path, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / INDEX).write_bytes(text.encode("latin-1"))
    assert str(folder) in refusal(folder)[:300]


# ---- damage ----


def test_a_file_cut_short_anywhere_is_refused(whole: Path, damaged: Path) -> None:
    content = (whole / SINGLE).read_bytes()
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    near = [n for end in (0, 8, header_end, len(content)) for n in range(end - 3, end + 3)]
    for length in (*near, *range(0, len(content), len(content) // 60)):
        if 0 <= length < len(content):
            (damaged / SINGLE).write_bytes(content[:length])
            message = refusal(damaged)
            assert message.startswith(f"{damaged / SINGLE} is not a whole safetensors file (")
            assert len(message) < 500


def test_more_bytes_than_the_header_says_are_refused(whole: Path, damaged: Path) -> None:
    (damaged / SINGLE).write_bytes((whole / SINGLE).read_bytes() + b"\0" * 8)
    assert "is not a whole safetensors file" in refusal(damaged)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_to_the_header_is_refused_or_harmless(
    whole: Path, damaged: Path, data: st.DataObject
) -> None:
    content = bytearray((whole / SINGLE).read_bytes())
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header_end - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b'0123456789[]{}",:')
        )
    (damaged / SINGLE).write_bytes(content)
    assert_loads_or_refuses(damaged)


def assert_loads_or_refuses(folder: Path) -> None:
    message = ""
    try:
        model, _ = load_model(folder)
        assert model.num_parameters() > 0
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def change_header(folder: Path, whole: Path, change: Any) -> None:
    """Write a header that lies, followed by the weights as they were."""
    content = (whole / SINGLE).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(change(header)).encode()
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


NAME = "transformer.h.0.mlp.c_fc.weight"


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
@pytest.mark.parametrize(
    "value",
    ["I32", "U32", "BF16", "F64", "F4", "F8_E4M3", "x", None, 5, [], [-1, 4], [32, 128, 1],
     [4096], [0, 0], [0, 10**18], [10**30, 2], [2**63, 2], {}],
    ids=str,
)  # fmt: skip
def test_a_header_that_lies_of_a_tensor(whole: Path, damaged: Path, key: str, value: Any) -> None:
    change_header(damaged, whole, lambda h: h | {NAME: h[NAME] | {key: value}})
    assert_loads_or_refuses(damaged)


def test_a_name_of_two_lines(whole: Path, damaged: Path) -> None:
    renamed = {NAME: "a\nb"}
    change_header(damaged, whole, lambda h: {renamed.get(name, name): h[name] for name in h})
    assert r"'a\nb'" in refusal(damaged)


@pytest.mark.parametrize(
    "header",
    [[], None, 5, {}, {"__metadata__": {}}, {"__metadata__": 5}, {NAME: None}, {NAME: {}}],
    ids=str,
)
def test_a_header_of_another_shape(whole: Path, damaged: Path, header: Any) -> None:
    change_header(damaged, whole, lambda _: header)
    message = refusal(damaged)
    assert str(damaged) in message


# ---- memory ----

MEASURE = """
import resource, sys
import torch
from lit_gpt_kit import load_model
from lit_gpt_kit.checkpoints import huggingface, safetensors_folder
dtype = getattr(torch, sys.argv[2])
torch.ones(2, 2, dtype=dtype) @ torch.ones(2, 2, dtype=dtype)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model, _ = load_model(sys.argv[1], dtype)
size = sum(parameter.nbytes for parameter in model.parameters())
for parameter in model.parameters():
    parameter.detach().flatten().view(torch.int16).sum()  # mapped or not, it is there now
print(size, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in kB on Linux")
@pytest.mark.parametrize("wanted", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loading_takes_little_more_than_the_network(
    family: str, wanted: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"llama": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5,
                       "num_attention_heads": 8, "vocab_size": 10_000},
             "gpt2": {"n_embd": 1024, "n_layer": 6, "n_head": 8, "vocab_size": 20_000}}  # fmt: skip
    config = AutoConfig.for_model(family, **sizes[family], eos_token_id=257, bos_token_id=256)
    save(AutoModelForCausalLM.from_config(config).bfloat16(), tmp_path)
    assert (tmp_path / SINGLE).stat().st_size > 180e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), wanted],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    print(f"{size:,} bytes of weights, peak {peak:,}")
    assert size > 180e6 * (2 if wanted == "float32" else 1)
    assert peak < 1.2 * size

"""GGUF files hold the model that was written into them, or are refused in one line."""

import re
import struct
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from lit_gpt_kit import load_model
from lit_gpt_kit.checkpoints import gguf as module
from lit_gpt_kit.checkpoints.gguf import GGUFFile
from lit_gpt_kit.checkpoints.gguf_container import GGUFContainer
from lit_gpt_kit.checkpoints.load import load_config, load_tokenizer
from lit_gpt_kit.errors import InputError, MissingFileError
from tests.gguf_files import (
    MODELS,
    NUM_LAYERS,
    SHAPE,
    TOKENS,
    TinyFile,
    make_file,
    permute,
    write_gguf,
)
from tests.smollm2 import smollm2_gguf

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K",
         "Q5_K", "Q6_K")  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
Spoil = Callable[[TinyFile], Any]


def read_all(file: GGUFFile, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: file.read(name, dtype) for name in file.names()}


def refusal(path: Path) -> str:
    """The one line that refuses a file, wherever it is found out."""
    with pytest.raises(InputError) as caught:
        read_everything(path)
    return str(caught.value).removeprefix(str(path))


def read_everything(path: Path) -> None:
    file = GGUFFile(path)
    read_all(file)
    file.tokenizer().encode("abc ab 12\n")


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("architecture", MODELS)
def test_a_model_is_the_one_that_was_written(
    tmp_path: Path, architecture: str, is_tied: bool
) -> None:
    made = make_file(architecture, tie_word_embeddings=is_tied)
    file = GGUFFile(made.write(tmp_path / "model.gguf"))
    weights, expected = read_all(file), dict(made.model.state_dict())
    if is_tied:
        del expected["lm_head.weight"]
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
        assert file.shape(name) == tuple(expected[name].shape)
    rope = {"rope_type": "default", "rope_theta": file.words.pop("rope_theta")}
    read = AutoModelForCausalLM.from_config(
        MODELS[architecture][0](**file.words, rope_parameters=rope)
    ).eval()
    read.load_state_dict(weights, strict=not is_tied)
    read.tie_weights()
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(read(tokens).logits, made.model(tokens).logits)


@pytest.mark.parametrize("architecture", MODELS)
def test_our_network_computes_what_transformers_computes(tmp_path: Path, architecture: str) -> None:
    made = make_file(architecture, head_dim=24 if architecture != "qwen2" else 16)
    model, tokenizer = load_model(made.write(tmp_path / "model.gguf"))
    assert load_tokenizer(tmp_path / "model.gguf").fingerprint == tokenizer.fingerprint
    assert load_config(tmp_path / "model.gguf") == model.config
    tokens = torch.arange(20)[None] % len(TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), made.model(tokens).logits, rtol=1e-4, atol=1e-5)
    assert tokenizer.encode("abc a") == [8, 7]


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    path = make_file(vocab_size=len(TOKENS) - 1).write(tmp_path / "model.gguf")
    with pytest.raises(InputError, match="vocab_size=9 is smaller than its tokenizer's 10 tokens"):
        load_model(path)


def test_scaled_positions_reach_our_network(tmp_path: Path) -> None:
    made = make_file(rope_parameters=LLAMA3 | {"original_max_position_embeddings": 8192})
    made.tensors["rope_freqs.weight"] = rope_factors()
    model, _ = load_model(made.write(tmp_path / "model.gguf"))
    tokens = torch.arange(100)[None] % len(TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), made.model(tokens).logits, rtol=1e-4, atol=1e-5)


def test_the_words_are_those_of_config_json(tmp_path: Path) -> None:
    file = GGUFFile(make_file(head_dim=24).write(tmp_path / "model.gguf"))
    assert file.words == {
        **SHAPE,
        "model_type": "llama",
        "hidden_act": "silu",
        "head_dim": 24,
        "rms_norm_eps": pytest.approx(1e-5, rel=1e-6),
        "rope_theta": 5000.0,
        "tie_word_embeddings": False,
    }


def test_what_a_file_need_not_say(tmp_path: Path) -> None:
    made = make_file(num_key_value_heads=4, tie_word_embeddings=True)
    for key in ("llama.attention.head_count_kv", "llama.rope.freq_base",
                "tokenizer.ggml.bos_token_id"):  # fmt: skip
        del made.values[key]
    words = GGUFFile(made.write(tmp_path / "model.gguf")).words
    assert words["num_key_value_heads"] == 4
    assert words["rope_theta"] == 10_000.0
    assert words["tie_word_embeddings"] is True
    assert words["bos_token_id"] is None
    assert words["head_dim"] == 16
    assert "rope_scaling" not in words


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_unpacked(tmp_path: Path, kind: str) -> None:
    number = Kind[kind]
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[number]
    # Every scale, a float16 in two bytes, stays finite while no byte has all exponent bits.
    width = 2 * max(block_size, 256)
    random = np.random.default_rng(0)
    packed = random.integers(0, 0x30, (6, width // block_size * block_bytes), dtype=np.uint8)
    write_gguf(tmp_path / "x.gguf", {}, {"x": (packed, number)})
    container = GGUFContainer(tmp_path / "x.gguf")
    assert container.tensors["x"].shape == (6, width)
    read = container.rows("x", 1, 5)
    assert read.dtype == np.float32
    assert np.isfinite(read).all()
    assert np.count_nonzero(read) > read.size / 2
    expected = gguf.quants.dequantize(packed, number)[1:5]
    assert np.array_equal(read, expected)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_unpacking_agrees_with_another_program(tmp_path: Path, kind: str) -> None:
    """Transformers has its own arithmetic for these types, in torch."""
    theirs = pytest.importorskip("transformers.integrations.gguf.dequant")
    number = Kind[kind]
    width = 512 // gguf.GGML_QUANT_SIZES[number][0] * gguf.GGML_QUANT_SIZES[number][1]
    packed = np.random.default_rng(1).integers(0, 0x30, (4, width), dtype=np.uint8)
    write_gguf(tmp_path / "x.gguf", {}, {"x": (packed, number)})
    read = torch.from_numpy(GGUFContainer(tmp_path / "x.gguf").rows("x", 0, 4))
    expected = theirs.dequantize(torch.from_numpy(packed), int(number)).reshape(4, 512)
    torch.testing.assert_close(read, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1"])
def test_a_packed_model_is_near_the_one_that_was_written(tmp_path: Path, kind: str) -> None:
    made = make_file(kind=Kind[kind])
    read = read_all(GGUFFile(made.write(tmp_path / "model.gguf")))
    for name, weight in read.items():
        expected = made.model.state_dict()[name]
        steps = {"F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 254, "Q5_1": 1 / 31}[kind]
        bound = steps * expected.abs().max().item() * 1.1
        torch.testing.assert_close(weight, expected, rtol=0, atol=bound)


def test_large_tensors_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_file(kind=Kind.Q8_0)
    file = GGUFFile(made.write(tmp_path / "model.gguf"))
    whole = read_all(file, torch.bfloat16)
    sizes = []
    rows = GGUFContainer.rows

    def watched(self: GGUFContainer, *arguments: Any) -> Any:
        found = rows(self, *arguments)
        sizes.append(found.size)
        return found

    monkeypatch.setattr(GGUFContainer, "rows", watched)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 20 * 96)
    pieces = read_all(file, torch.bfloat16)
    assert max(sizes) == 20 * 96
    assert all(torch.equal(pieces[name], whole[name]) for name in whole)
    assert {weight.dtype for weight in whole.values()} == {torch.bfloat16}
    for name, weight in read_all(file).items():
        assert torch.equal(weight.bfloat16(), whole[name]), name


def test_llamas_order_is_undone(tmp_path: Path) -> None:
    """By hand: head h's rows 0..7 are stored as 0 4 1 5 2 6 3 7."""
    rows = np.arange(16, dtype=np.float32)
    assert permute(rows[:, None], 2)[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    made = make_file(hidden_size=64, num_attention_heads=8, num_key_value_heads=2, head_dim=8)
    made.tensors["blk.1.attn_k.weight"] = permute(np.repeat(rows[:, None], 64, axis=1), 2)
    file = GGUFFile(made.write(tmp_path / "model.gguf"))
    read = file.read("model.layers.1.self_attn.k_proj.weight", torch.float32)
    assert read[:, 0].tolist() == rows.tolist()


def rope_factors(**changes: float) -> np.ndarray:
    """The factors of Llama 3's scaling, from the frequencies that transformers computes."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(**SHAPE, rope_parameters=LLAMA3 | changes)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    unscaled = 1 / 5000.0 ** (torch.arange(0, 16, 2) / 16)
    return (unscaled / scaled).numpy()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3s_positions_are_found_again(tmp_path: Path, factor: float) -> None:
    made = make_file()
    made.tensors["rope_freqs.weight"] = rope_factors(factor=factor)
    assert made.tensors["rope_freqs.weight"].max() == pytest.approx(factor, rel=1e-5)
    file = GGUFFile(made.write(tmp_path / "model.gguf"))
    assert file.words["rope_scaling"] == pytest.approx(
        {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
        | {"factor": pytest.approx(factor, rel=1e-5)}
    )
    assert len(file.names()) == len(made.model.state_dict())


def test_factors_of_one_change_nothing(tmp_path: Path) -> None:
    made = make_file()
    made.tensors["rope_freqs.weight"] = np.ones(8, dtype=np.float32)
    assert "rope_scaling" not in GGUFFile(made.write(tmp_path / "model.gguf")).words


def test_other_scalings_have_their_words(tmp_path: Path) -> None:
    made = make_file()
    made.values["llama.rope.scaling.type"] = "linear"
    made.values["llama.rope.scaling.factor"] = 4.0
    words = GGUFFile(made.write(tmp_path / "linear.gguf")).words
    assert words["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    made.values["llama.rope.scaling.type"] = "yarn"
    made.values["llama.rope.scaling.original_context_length"] = 64
    words = GGUFFile(made.write(tmp_path / "yarn.gguf")).words
    assert words["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }


def test_the_tokenizer_is_the_files(tmp_path: Path) -> None:
    tokenizer = GGUFFile(make_file().write(tmp_path / "model.gguf")).tokenizer()
    assert tokenizer.encode("abc a\nb<s>") == [8, 7, 9, 3, 1]
    assert tokenizer.vocab_size == len(TOKENS)
    assert (tokenizer.begin_token, tokenizer.end_token, tokenizer.begin_ids) == ("<s>", "<end>", [])
    assert tokenizer.chat_template == "{{ messages[0].content }}"


def change(**values: Any) -> Spoil:
    return lambda made: made.values.update({k.replace("__", "."): v for k, v in values.items()})


def drop(key: str) -> Spoil:
    return lambda made: (made.values.pop(key, None), made.tensors.pop(key, None))


def add(name: str, values: Any) -> Spoil:
    return lambda made: made.tensors.update({name: values})


LACKS = " lacks the metadata {}, without which it is no model"
REFUSED: dict[str, tuple[Spoil, str]] = {
    "architecture": (
        change(general__architecture="gemma"),
        " is of architecture 'gemma'; those that work are llama, qwen2, qwen3",
    ),
    "missing value": (
        drop("llama.attention.head_count"),
        LACKS.format("llama.attention.head_count"),
    ),
    "missing architecture": (drop("general.architecture"), LACKS.format("general.architecture")),
    "missing tokenizer": (drop("tokenizer.ggml.model"), LACKS.format("tokenizer.ggml.model")),
    "wrong type": (
        change(llama__embedding_length="wide"),
        ": llama.embedding_length='wide' should be a whole number",
    ),
    "list of wrong type": (
        change(tokenizer__ggml__tokens=[1, 2]),
        ": tokenizer.ggml.tokens should be a list, each entry a text",
    ),
    "no heads": (
        change(llama__attention__head_count=0),
        ": llama.attention.head_count=0 must be at least 1",
    ),
    "heads that do not fit": (
        change(llama__attention__head_count_kv=3),
        ": the 32 rows of blk.0.attn_k.weight are not 3 heads of an even width",
    ),
    "partly turned heads": (
        change(llama__rope__dimension_count=8),
        ": llama.rope.dimension_count=8 differs from the 16 numbers of a head, which must all be "
        "turned by its position",
    ),
    "missing tensor": (drop("output_norm.weight"), " lacks the tensor output_norm.weight"),
    "missing tensor of a layer": (
        drop("blk.1.ffn_up.weight"),
        " lacks the tensor blk.1.ffn_up.weight",
    ),
    "too many layers": (
        change(llama__block_count=2**32 - 1),
        f" lacks the tensor blk.{NUM_LAYERS}.attn_norm.weight",
    ),
    "too few layers": (
        change(llama__block_count=1),
        " holds the tensor 'blk.1.attn_k.weight', which no llama model of 1 layers has",
    ),
    "unknown tensor": (
        add("blk.0.ffn_gate_inp.weight", np.zeros((8, 64), np.float32)),
        " holds the tensor 'blk.0.ffn_gate_inp.weight', which no llama model of 2 layers has",
    ),
    "type that is not unpacked": (
        add("x", np.zeros((2, 32), np.int8)),
        ": tensor 'x' is of type I8, which the gguf library cannot unpack; convert the model to "
        "Q8_0 or F16",
    ),
    "rope factors": (
        add("rope_freqs.weight", np.linspace(1, 3, 8, dtype=np.float32)),
        ": rope_freqs.weight stretches the rotary positions in another way than Llama 3, the only "
        "one that works",
    ),
    "rope factors of another width": (
        add("rope_freqs.weight", np.full(5, 2, dtype=np.float32)),
        ": rope_freqs.weight stretches the rotary positions in another way than Llama 3, the only "
        "one that works",
    ),
    "rope scaling": (
        change(llama__rope__scaling__type="longrope"),
        ": llama.rope.scaling.type='longrope' is not among those that work: none, linear, yarn",
    ),
    "one of several parts": (
        change(split__count=3),
        " is one of 3 parts of a model; merge them with llama.cpp's gguf-split --merge",
    ),
    "tokenizer": (
        change(tokenizer__ggml__model="bert"),
        ": tokenizer.ggml.model='bert' is not among those that work: gpt2, llama",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, what: str) -> None:
    spoil, expected = REFUSED[what]
    made = make_file()
    spoil(made)
    assert refusal(made.write(tmp_path / "model.gguf")) == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(MissingFileError, match=re.escape(f"model {path} does not exist")):
            GGUFFile(path)


def test_the_library_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_file().write(tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError) as caught:
        GGUFFile(path)
    assert str(caught.value) == (
        "reading a .gguf file needs the gguf library; pip install 'lit-gpt-kit[gguf]'"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_file().write(tmp_path_factory.mktemp("gguf") / "model.gguf").read_bytes()


def put(data: bytes, at: int, letters: str, *numbers: Any) -> bytes:
    piece = struct.pack(f"<{letters}", *numbers)
    return data[:at] + piece + data[at + len(piece) :]


def place_of(data: bytes, text: str) -> int:
    """The byte behind a text."""
    return data.index(struct.pack("<Q", len(text)) + text.encode()) + 8 + len(text)


# The tensor record of blk.0.attn_q.weight: 2 dimensions, 64, 64, type, offset.
DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "is not a GGUF file: it does not begin with GGUF"),
    "another format": (lambda d: b"PK" + d[2:], "is not a GGUF file: it does not begin with GGUF"),
    "version": (
        lambda d: put(d, 4, "I", 1),
        "is of GGUF version 1; versions 2 and 3 are read, little-endian; convert the model again",
    ),
    "big-endian": (
        lambda d: d[:4] + d[4:8][::-1] + d[8:],
        "is of GGUF version 50331648; versions 2 and 3 are read",
    ),
    "cut in the counts": (lambda d: d[:10], "its header wants byte 16 of 10"),
    "cut in the metadata": (lambda d: d[:300], "its header wants byte "),
    "cut in the tensors": (lambda d: d[:-100], "tensor 'output.weight' ends at byte "),
    "too long": (lambda d: d + bytes(100), "its last 100 bytes belong to no tensor"),
    "far too many values": (lambda d: put(d, 16, "Q", 2**63), ""),
    "far too many tensors": (lambda d: put(d, 8, "Q", 2**63), ""),
    "one tensor too many": (lambda d: put(d, 8, "Q", 22), "tensor '' has 0 dimensions"),
    "one tensor too few": (lambda d: put(d, 8, "Q", 20), ""),
    "long key": (lambda d: put(d, 24, "Q", 2**62), "the text at byte 24 has "),
    "long list": (
        lambda d: put(d, place_of(d, "tokenizer.ggml.token_type") + 8, "Q", 2**60),
        f"has {2**60:,} entries",
    ),
    "list of lists": (
        lambda d: put(d, place_of(d, "tokenizer.ggml.token_type") + 4, "I", 9),
        "is of no known type",
    ),
    "not UTF-8": (lambda d: put(d, place_of(d, "llama.block_count") - 1, "B", 0xFF), "not UTF-8"),
    "twice": (
        lambda d: d.replace(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"),
        "tensor 'blk.0.attn_q.weight' is there twice",
    ),
    "dimensions": (
        lambda d: put(d, place_of(d, "blk.0.attn_q.weight"), "I", 2**31),
        "tensor 'blk.0.attn_q.weight' has 2147483648 dimensions",
    ),
    "shape": (
        lambda d: put(d, place_of(d, "blk.0.attn_q.weight") + 4, "Q", 2**61),
        "tensor 'blk.0.attn_q.weight' ends at byte ",
    ),
    "no rows": (
        lambda d: put(d, place_of(d, "blk.0.attn_q.weight") + 12, "Q", 0),
        "tensor 'blk.0.attn_q.weight' has the shape (0, 64), whose rows are not made of F32 blocks",
    ),
    "type": (
        lambda d: put(d, place_of(d, "blk.0.attn_q.weight") + 20, "I", 4711),
        ": tensor 'blk.0.attn_q.weight' is of type number 4711, which the gguf library does not "
        "know; upgrade it, or convert the model to Q8_0 or F16",
    ),
    "smaller type": (
        lambda d: put(d, place_of(d, "blk.0.attn_q.weight") + 20, "I", int(Kind.F16)),
        "tensor 'blk.0.attn_k.weight' does not follow the one before it",
    ),
    "offset": (
        lambda d: put(d, place_of(d, "blk.0.attn_q.weight") + 24, "Q", 2**60),
        "tensor 'blk.0.attn_q.weight' does not follow the one before it",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_named(tmp_path: Path, whole: bytes, what: str) -> None:
    spoil, expected = DAMAGED[what]
    path = tmp_path / "model.gguf"
    assert spoil(whole) != whole
    path.write_bytes(spoil(whole))
    message = refusal(path)
    assert expected in message
    if not message.startswith((" is not a GGUF", " is of GGUF version", ": tensor")):
        assert message.startswith(" is cut short or damaged: ")
        assert message.endswith("; get it again")


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    file = GGUFFile(path)
    path.write_bytes(whole[:-1000])
    with pytest.raises(InputError, match=r"damaged: it ends within tensor 'output\.weight'"):
        file.read("lm_head.weight", torch.float32)


def damages(data: bytes, header_end: int) -> Iterator[bytes]:
    random = np.random.default_rng(0)
    for length in range(0, header_end, 23):
        yield data[:length]
    for at in range(0, header_end, 3):
        for value in (random.integers(256), data[at] ^ 0x80):
            yield put(data, at, "B", int(value))
    for _ in range(200):
        at = int(random.integers(header_end - 8))
        yield put(data, at, "Q", 2**64 - 1 - int(random.integers(99)))


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "model.gguf"
    made = make_file(num_hidden_layers=1, vocab_size=len(TOKENS))
    made.values["tokenizer.ggml.model"] = tokenizer
    made.values["tokenizer.ggml.scores"] = [-float(i) for i in range(len(TOKENS))]
    data = made.write(path).read_bytes()
    header_end = min(tensor.offset for tensor in GGUFContainer(path).tensors.values())
    messages = []
    for damaged in chain([data], damages(data, header_end)):
        path.write_bytes(damaged)
        try:
            read_everything(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 500
    for message in messages:
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < len(str(path)) + 300


def test_the_real_smollm2_is_the_one_that_the_library_reads() -> None:
    path = smollm2_gguf()
    file = GGUFFile(path)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    assert len(file.names()) == len(stored) == 272
    num_heads = {"attn_q.weight": 9, "attn_k.weight": 3}
    for name in file.names()[::4]:
        tensor = stored[names.get_name(name, try_suffixes=(".weight",)) or ""]
        read = file.read(name, torch.float32).numpy()
        heads = num_heads.get(tensor.name.split(".", 2)[-1])
        in_order = read if heads is None else permute(read, heads)
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(in_order, expected), name
    assert file.words == {
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "head_dim": 64,
        "num_key_value_heads": 3,
        "rms_norm_eps": pytest.approx(1e-5),
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


@pytest.mark.slow
def test_the_real_smollm2_is_the_one_that_transformers_reads() -> None:
    path = smollm2_gguf()
    file = GGUFFile(path)
    config = LlamaConfig(**file.words)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    theirs = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    weights = theirs["tensors"]
    assert set(file.names()) == weights.keys()
    assert len(weights) == 272
    for name in file.names():
        assert torch.equal(file.read(name, torch.float32), weights[name]), name
    said = theirs["config"]
    shared = file.words.keys() & said.keys()
    assert {name: file.words[name] for name in shared} == {name: said[name] for name in shared}
    assert len(shared) >= 11
    assert (file.words["bos_token_id"], file.words["eos_token_id"]) == (1, 2)

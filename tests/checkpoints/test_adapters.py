"""Folders of adapters: what PEFT makes of ours, and we of PEFT's, is the same network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_gpt_kit import GPT, load_model
from lit_gpt_kit.checkpoints.adapters import find_model_type, save_adapters
from lit_gpt_kit.checkpoints.export import export_folder
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.load import load_adapted, load_config, load_tokenizer
from lit_gpt_kit.checkpoints.native import AdapterOrigin
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora, lora_layers
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from tests.transformers_models import VOCAB, build, save

MODELS = [
    ("gpt2", "untied"),
    ("gpt_neox", "quarter-rotary"),
    ("llama", "grouped"),
    ("llama", "biases"),
    ("phi3", "plain"),
    ("qwen3", "grouped"),
    ("gemma2", "small-caps"),
]
OURS: dict[str, dict[str, Any]] = {
    "all": {"rank": 4},
    "rslora": {"use_rslora": True, "rank": 2, "targets": ("attention",)},
    "dora": {"use_dora": True, "alpha": 4.0},
    "some parts": {"targets": ("attention.q", "attention.v", "mlp.up"), "rank": 3},
    "dora of some parts": {"targets": ("q", "v", "mlp.up"), "rank": 3, "use_dora": True},
    "some layers": {"targets": ("blocks.0.attention.k", "blocks.[12].*.out", "q")},
}
FUSED = {"gpt2": ["c_attn", "mlp.c_proj"], "gpt_neox": ["query_key_value", "dense_h_to_4h"],
         "phi3": ["qkv_proj", "gate_up_proj"]}  # fmt: skip
THEIRS: dict[str, dict[str, Any]] = {
    "all": {"target_modules": "all-linear"},
    "dora": {"target_modules": "all-linear", "use_dora": True, "use_rslora": True},
    "patterns": {"rank_pattern": {"0..*": 5}, "alpha_pattern": {"1..*": 3}, "lora_dropout": 0.1},
}


def ids() -> Tensor:
    return torch.randint(VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    out = model(ids())
    return torch.as_tensor(getattr(out, "logits", out))


@torch.no_grad()
def stir(model: torch.nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of transformers, and its folder."""
    theirs = build(*request.param)
    return request.param[0], theirs, save(theirs, tmp_path_factory.mktemp("base"))


def save_ours(base: Path, folder: Path, config: LoRAConfig) -> GPT:
    model, tokenizer = load_model(base)
    apply_lora(model, config)
    stir(model)
    origin = AdapterOrigin(config, str(base), fingerprint_weights(base))
    save_adapters(model, tokenizer, folder, origin, find_model_type(base, model.config))
    return model


# ---- ours and theirs compute the same ----


@pytest.mark.parametrize("kind", OURS)
def test_peft_computes_what_we_do(base: Any, tmp_path: Path, kind: str) -> None:
    _, theirs, folder = base
    plain = logits_of(theirs)
    ours = save_ours(folder, tmp_path / "out", LoRAConfig(**OURS[kind]))
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "out")
    try:
        expected = logits_of(ours)
        assert (expected - plain).abs().max() > 0.05
        torch.testing.assert_close(logits_of(adapted), expected, rtol=0, atol=1e-3)
    finally:
        adapted.unload()
    back, _ = load_model(tmp_path / "out")
    torch.testing.assert_close(logits_of(back), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", THEIRS)
def test_we_compute_what_peft_does(base: Any, tmp_path: Path, kind: str) -> None:
    family, theirs, folder = base
    plain = logits_of(theirs)
    targets = FUSED.get(family, ["q_proj", "o_proj", "down_proj"])
    config = peft.LoraConfig(**{"target_modules": targets, "r": 4, "lora_alpha": 6, **THEIRS[kind]})
    adapted = peft.get_peft_model(theirs, config).eval()
    try:
        stir(adapted)
        expected = logits_of(adapted)
        adapted.save_pretrained(tmp_path / "out")
    finally:
        adapted.unload()
    assert (expected - plain).abs().max() > 0.05
    ours, _ = load_model(tmp_path / "out", base=folder)
    torch.testing.assert_close(logits_of(ours), expected, rtol=0, atol=1e-3)


def test_theirs_can_be_trained_on(base: Any, tmp_path: Path) -> None:
    _, theirs, folder = base
    config = peft.LoraConfig(target_modules="all-linear", r=4, lora_dropout=0.25)
    adapted = peft.get_peft_model(theirs, config)
    try:
        adapted.save_pretrained(tmp_path / "out")
    finally:
        adapted.unload()
    model, tokenizer, origin = load_adapted(tmp_path / "out", base=folder)
    (kind,) = {layer.config for layer in lora_layers(model).values()}
    assert (kind.rank, kind.alpha, kind.dropout, kind) == (4, 8.0, 0.25, origin.lora)
    torch.testing.assert_close(logits_of(model), logits_of(theirs), rtol=0, atol=1e-3)
    model(ids()).logsumexp(-1).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(grad.any() for name, grad in grads.items() if grad is not None and ".b." in name)
    save_adapters(
        model, tokenizer, tmp_path / "again", origin, find_model_type(folder, model.config)
    )
    assert origin.base_sha256 == fingerprint_weights(folder)


# ---- what is in the folder ----


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save(build("llama", "grouped"), tmp_path / "llama")


def test_the_folder_is_pefts(llama: Path, tmp_path: Path) -> None:
    config = LoRAConfig(rank=4, targets=("attention.q", "blocks.1.mlp"), use_dora=True)
    ours = save_ours(llama, tmp_path / "out", config)
    said = peft.PeftConfig.from_pretrained(tmp_path / "out")
    assert isinstance(said, peft.LoraConfig)
    assert (said.r, said.lora_alpha, said.use_dora) == (4, 16.0, True)
    assert said.base_model_name_or_path == str(llama)
    assert said.target_modules == {
        "self_attn.q_proj",
        *(f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")),
    }
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    start = "base_model.model.model.layers.0.self_attn.q_proj."
    a, b = ours.blocks[0].attention.qkv.part("q")
    assert torch.equal(tensors[f"{start}lora_A.weight"], a)
    assert torch.equal(tensors[f"{start}lora_B.weight"], b)
    assert len(tensors) == 3 * (3 + 3)
    pin = json.loads((tmp_path / "out" / "lit_gpt_kit.json").read_text())
    assert pin == {"base_sha256": fingerprint_weights(llama)}
    assert load_tokenizer(tmp_path / "out").fingerprint == load_tokenizer(llama).fingerprint
    assert load_config(tmp_path / "out") == load_config(llama) == ours.config
    modes = {oct(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3"])
def test_ranks_are_the_parts_that_are_trained(family: str, tmp_path: Path) -> None:
    folder = save(build(family, next(iter(FUSED_SHAPES[family]))), tmp_path / "base")
    save_ours(folder, tmp_path / "out", LoRAConfig(rank=4, alpha=12.0, targets=("q", "v", "up")))
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    fused = FUSED_SHAPES[family][next(iter(FUSED_SHAPES[family]))]
    assert (said["rank_pattern"], said["alpha_pattern"]) == ({fused: 8}, {fused: 24.0})
    _, _, origin = load_adapted(tmp_path / "out")
    assert (origin.lora.rank, origin.lora.alpha) == (4, 12.0)
    assert len(origin.lora.targets) == 3 * 3


FUSED_SHAPES = {
    "gpt2": {"plain": "attn.c_attn"},
    "gpt_neox": {"sequential": "attention.query_key_value"},
    "phi3": {"plain": "self_attn.qkv_proj"},
}


def test_adapters_of_a_checkpoint_find_an_architecture(
    save_network: Callable[..., tuple[Path, GPT]], tmp_path: Path
) -> None:
    path, _ = save_network()
    ours = save_ours(path, tmp_path / "out", LoRAConfig())
    assert find_model_type(path, ours.config) == "gpt2"
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        expected = ours(tokens)
        torch.testing.assert_close(
            load_model(tmp_path / "out")[0](tokens), expected, rtol=0, atol=1e-4
        )


def test_the_tokenizer_is_the_bases_where_the_folder_has_none(llama: Path, tmp_path: Path) -> None:
    save_ours(llama, tmp_path / "out", LoRAConfig())
    (tmp_path / "out" / "tokenizer.json").unlink()
    expected = Tokenizer.from_file(llama).fingerprint
    assert load_tokenizer(tmp_path / "out").fingerprint == expected
    assert load_model(tmp_path / "out")[1].fingerprint == expected


# ---- what is refused ----


def change_words(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3' of the adapters is not supported; only 'LORA'"),
        ({"bias": "all"}, "bias='all' of the adapters is not supported; only 'none'"),
        (
            {"modules_to_save": ["lm_head"]},
            "modules_to_save=['lm_head'] of the adapters is not supported; only None",
        ),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights='pissa_niter_4' changed the weights of the base in training",
        ),
        ({"alpha_pattern": {"(": 3}}, "'(' is no pattern of names"),
        ({"alpha_pattern": [1]}, "alpha_pattern=[1] is no object of patterns and numbers"),
        ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern['q_proj']='x' is no number"),
        ({"lora_alpha": "x"}, "lora_alpha='x' is no number"),
        ({"lora_dropout": True}, "lora_dropout=True is no number"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path=5 is no name"),
        (
            {"use_dora": True},
            "'model.layers.0.mlp.down_proj.lora_magnitude_vector' is missing, or too much",
        ),
    ],
)
def test_words_that_are_not_supported(
    llama: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    save_ours(llama, tmp_path / "out", LoRAConfig())
    change_words(tmp_path / "out", **changes)
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'out'}: {message}")


Q = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({Q.replace("q_proj", "c_attn") + "lora_A.weight": torch.ones(1)}),
            "adapts 'model.layers.0.self_attn.c_attn', which is no linear layer of this network; "
            "the adapters belong to another base",
        ),
        (
            lambda t: t.update({f"{Q}lora_embedding_A": torch.ones(1)}),
            f"'{Q}lora_embedding_A' is no tensor of LoRA beside a linear layer",
        ),
        (lambda t: t.pop(f"{Q}lora_B.weight"), "q_proj.lora_B.weight' is missing, or too much"),
        (
            lambda t: t.update({f"{Q}lora_A.weight": torch.ones(8, 31)}),
            "q_proj.lora_A.weight' has shape (8, 31), and (8, 32) would fit the base",
        ),
        (
            lambda t: t.update({f"{Q}lora_B.weight": torch.ones(31, 8)}),
            "q_proj.lora_B.weight' has shape (31, 8), and (32, 8) would fit the base",
        ),
        (lambda t: t.clear(), "holds no adapters"),
    ],
)
def test_tensors_that_do_not_fit(
    llama: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    save_ours(llama, tmp_path / "out", LoRAConfig())
    path = tmp_path / "out" / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "out")
    assert message in str(caught.value)


def test_a_file_cut_short(llama: Path, tmp_path: Path) -> None:
    save_ours(llama, tmp_path / "out", LoRAConfig())
    path = tmp_path / "out" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        load_model(tmp_path / "out")
    path.rename(path.with_name("adapter_model.bin"))
    with pytest.raises(MissingFileError, match=r"in a pickle \(.bin\) are not read"):
        load_model(tmp_path / "out")


def test_adapters_for_another_base(llama: Path, tmp_path: Path) -> None:
    save_ours(llama, tmp_path / "out", LoRAConfig())
    other = save(build("llama", "multi-head"), tmp_path / "other")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "out", base=other)
    assert str(caught.value) == (
        f"{tmp_path}/out holds adapters for another base: the weights they were trained on have "
        f"sha256 {fingerprint_weights(llama)[:12]}..., those of {other} "
        f"{fingerprint_weights(other)[:12]}...; name the model they were trained on: "
        f"lit-gpt merge {tmp_path}/out FOLDER --base MODEL"
    )


def test_no_base_is_named(llama: Path, tmp_path: Path) -> None:
    save_ours(llama, tmp_path / "out", LoRAConfig())
    change_words(tmp_path / "out", base_model_name_or_path=None)
    for load in (load_model, load_tokenizer):
        (tmp_path / "out" / "tokenizer.json").unlink(missing_ok=True)
        with pytest.raises(InputError, match="does not say which model its adapters belong to"):
            load(tmp_path / "out")


def test_their_own_base(llama: Path, tmp_path: Path) -> None:
    save_ours(llama, tmp_path / "out", LoRAConfig())
    with pytest.raises(
        InputError, match=r"its adapters belong to .*out, and that to them again; lit-gpt merge"
    ):
        load_model(tmp_path / "out", base=tmp_path / "out")


def test_a_network_with_adapters_is_not_exported_without_them(llama: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(llama)
    apply_lora(model, LoRAConfig())
    with pytest.raises(InputError, match="the network has LoRA beside its layers; merge it first"):
        export_folder(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_whole_model_holds_no_adapters(llama: Path, run: Any) -> None:
    for name in (llama, run.folder):
        with pytest.raises(InputError, match="holds a whole model, and no adapters"):
            load_adapted(name)


def test_a_folder_in_use_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(InputError, match="is not empty"):
        save_ours(llama, tmp_path / "out", LoRAConfig())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_bases_in_a_circle(llama: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_ours(llama, tmp_path / name, LoRAConfig())
    change_words(tmp_path / "one", base_model_name_or_path=str(tmp_path / "two"))
    change_words(tmp_path / "two", base_model_name_or_path=str(tmp_path / "one"))
    loaders: list[Any] = [load_model, load_tokenizer, load_config]
    for load in loaders:
        (tmp_path / "one" / "tokenizer.json").unlink(missing_ok=True)
        with pytest.raises(InputError, match=r"its adapters belong to .*two, and that to them"):
            load(tmp_path / "one")

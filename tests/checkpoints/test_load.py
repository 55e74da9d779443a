"""MODEL, as people name it, becomes the network that was saved, and its tokenizer."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from lit_gpt_kit import GPT, SamplingConfig, generate, load_model
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.load import load_config, load_tokenizer
from lit_gpt_kit.checkpoints.locate import find_checkpoint
from lit_gpt_kit.checkpoints.native import KEY
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.config import PositionKind
from lit_gpt_kit.model.lora import lora_layers
from tests.adapter_files import save_adapter_checkpoint

SaveNetwork = Callable[..., tuple[Path, GPT]]


@torch.no_grad()
def logits_of(model: torch.nn.Module, vocab_size: int) -> torch.Tensor:
    tokens = torch.randint(vocab_size, (2, 8), generator=torch.Generator().manual_seed(0))
    out: torch.Tensor = model(tokens)
    return out


def make_files(folder: Path, *names: str) -> None:
    """Empty files, each newer than the one before."""
    folder.mkdir(parents=True)
    for age, name in enumerate(names):
        (folder / name).touch()
        os.utime(folder / name, (1000 + age, 1000 + age))


@pytest.mark.parametrize("kind", ["folder", "file", "text"])
def test_the_network_of_a_run_is_the_tasks(run: Any, kind: str) -> None:
    name = {"folder": run.folder, "file": run.checkpoint, "text": str(run.folder)}[kind]
    model, tokenizer = load_model(name)
    assert torch.equal(logits_of(model, 270), logits_of(run.task, 270))
    assert model.config == run.task.gpt
    assert tokenizer.fingerprint == run.task.tokenizer.fingerprint
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32


def test_the_network_of_a_run_generates(run: Any) -> None:
    model, tokenizer = load_model(run.folder)
    config = SamplingConfig(max_new_tokens=20, seed=0)
    out = generate(model, [tokenizer.encode("the quick")], config, tokenizer)
    assert tokenizer.decode(out[0]) == run.task.generate("the quick", max_new_tokens=20, seed=0)


def test_home_is_understood(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.folder.parent))
    model, _ = load_model(f"~/{run.folder.name}")
    assert model.config == run.task.gpt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_tied", [True, False])
def test_tied_weights_are_one(save_network: SaveNetwork, is_tied: bool, dtype: torch.dtype) -> None:
    path, saved = save_network(tie_embeddings=is_tied)
    model, _ = load_model(path, dtype=dtype)
    assert (model.lm_head.weight is model.token_embedding.weight) == is_tied
    assert model.num_parameters() == saved.num_parameters()


def test_the_tokenizer_alone_is_the_models(run: Any, tmp_path: Path) -> None:
    run.task.tokenizer.save(tmp_path / "folder" / "tokenizer.json")
    (tmp_path / "folder" / "config.json").write_text("{}")  # nobody asks for the network
    for name in (run.folder, run.checkpoint, tmp_path / "folder"):
        assert load_tokenizer(name).fingerprint == run.task.tokenizer.fingerprint


def test_the_configuration_alone_is_the_models(run: Any) -> None:
    for name in (run.folder, run.checkpoint):
        assert load_config(name) == run.task.gpt


@pytest.mark.parametrize("position", get_args(PositionKind))
def test_bfloat16_throughout(save_network: SaveNetwork, position: str) -> None:
    path, saved = save_network(position=position)
    model, _ = load_model(path, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    logits, expected = logits_of(model, 257), logits_of(saved, 257)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.04 * expected.std().item())
    assert len(generate(model, [[1, 2, 3]], SamplingConfig(max_new_tokens=5, seed=0))[0]) == 5


@pytest.mark.parametrize("position", get_args(PositionKind))
def test_every_kind_of_network_is_the_one_that_was_saved(
    save_network: SaveNetwork, position: str
) -> None:
    path, saved = save_network(position=position, num_kv_heads=1, norm="rmsnorm", mlp="swiglu")
    model, _ = load_model(path)
    assert torch.equal(logits_of(model, 257), logits_of(saved, 257))


def test_weights_that_do_not_fit_are_refused(save_network: SaveNetwork) -> None:
    path, _ = save_network()
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["state_dict"]["model.norm.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{path}: weights and configuration do not fit: Missing key(s) in state_dict: "
        '"norm.weight".'
    )


def test_a_configuration_of_another_size_is_refused(save_network: SaveNetwork) -> None:
    path, _ = save_network()
    checkpoint = torch.load(path, weights_only=True)
    checkpoint[KEY]["gpt"]["mlp_dim"] = 48
    torch.save(checkpoint, path)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(
        f"{path}: weights and configuration do not fit: size mismatch for blocks.0.mlp.up.weight"
    )


def test_a_checkpoint_without_tokenizer_is_refused(save_network: SaveNetwork) -> None:
    path, _ = save_network(tokenizer=None)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path} holds no tokenizer, so it cannot read or write text"


def test_another_programs_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path} was not written by lit-gpt: it has no 'lit_gpt_kit' entry"


def test_a_run_folder_with_a_damaged_checkpoint_names_the_file(tmp_path: Path) -> None:
    make_files(tmp_path / "checkpoints", "best.ckpt")
    with pytest.raises(InputError, match=r"checkpoints/best\.ckpt is not a whole checkpoint"):
        load_model(tmp_path)


def test_a_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError) as caught:
        load_model("runs/nowhere/last")
    assert str(caught.value) == f"model runs/nowhere/last does not exist (from {tmp_path})"


@pytest.mark.parametrize("has_folder", [False, True])
def test_a_folder_without_checkpoints_is_refused(tmp_path: Path, has_folder: bool) -> None:
    if has_folder:
        make_files(tmp_path / "checkpoints", "notes.txt")
    with pytest.raises(MissingFileError) as caught:
        load_model(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is no model: there is neither a config.json (a Hugging Face folder) nor a "
        f"checkpoint in {tmp_path / 'checkpoints'} (a run folder)"
    )


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["best.ckpt", "last.ckpt", "step=9.ckpt"], "best.ckpt"),
        (["last.ckpt", "step=9.ckpt"], "last.ckpt"),
        (["step=10.ckpt", "step=9.ckpt", "notes.txt"], "step=9.ckpt"),
    ],
    ids=["the best", "else the last", "else the newest"],
)
def test_the_checkpoint_of_a_run_folder(tmp_path: Path, names: list[str], chosen: str) -> None:
    make_files(tmp_path / "checkpoints", *names)
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / chosen


@pytest.mark.parametrize("is_moved", [False, True])
def test_the_best_of_a_configured_model_checkpoint(tmp_path: Path, is_moved: bool) -> None:
    """Whose file's name holds a metric's, and with it a folder."""
    folder = tmp_path / "run" / "checkpoints"
    best = folder / "step=2-val" / "loss=3.86.ckpt"
    states = {
        "LastCheckpoint": {},
        "ModelCheckpoint{'monitor': None}": {
            "monitor": None,
            "best_model_path": str(folder / "step=9.ckpt"),
            "dirpath": str(folder),
        },
        "ModelCheckpoint{'monitor': 'val/loss'}": {
            "monitor": "val/loss",
            "best_model_path": str(best),
            "dirpath": str(folder),
        },
    }
    make_files(folder, "step=9.ckpt")
    make_files(best.parent, best.name)
    torch.save({"callbacks": states}, folder / "last.ckpt")
    run = tmp_path / "run"
    if is_moved:
        run, best = tmp_path / "moved", tmp_path / "moved" / best.relative_to(run)
        (tmp_path / "run").rename(run)
    assert find_checkpoint(run) == best
    best.unlink()
    assert find_checkpoint(run) == run / "checkpoints" / "last.ckpt"


def test_the_newest_may_lie_in_a_folder_that_its_name_makes(tmp_path: Path) -> None:
    make_files(tmp_path / "checkpoints" / "step=2-val", "loss=3.86.ckpt")
    expected = tmp_path / "checkpoints" / "step=2-val" / "loss=3.86.ckpt"
    assert find_checkpoint(tmp_path) == expected


def test_a_file_is_its_own_checkpoint(tmp_path: Path) -> None:
    make_files(tmp_path / "checkpoints", "best.ckpt", "step=5.ckpt")
    path = tmp_path / "checkpoints" / "step=5.ckpt"
    assert find_checkpoint(path) == path


# ---- checkpoints that hold what was trained beside a base ----


@pytest.fixture
def base(save_network: SaveNetwork) -> Path:
    return save_network(position="rotary", num_kv_heads=1)[0]


@pytest.mark.parametrize("kind", [{}, {"use_dora": True, "targets": ["q", "mlp"], "rank": 2}])
def test_adapters_are_folded_into_their_base(
    base: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    unmerged = save_adapter_checkpoint(tmp_path / "adapters.ckpt", base, **kind)
    model, tokenizer = load_model(tmp_path / "adapters.ckpt")
    expected = logits_of(unmerged, 257)
    torch.testing.assert_close(logits_of(model, 257), expected, rtol=0, atol=1e-5)
    assert (logits_of(load_model(base)[0], 257) - expected).abs().max() > 1e-2
    assert not lora_layers(model)
    assert not model.training
    assert load_tokenizer(tmp_path / "adapters.ckpt").fingerprint == tokenizer.fingerprint
    assert load_config(tmp_path / "adapters.ckpt") == model.config
    rounded, _ = load_model(tmp_path / "adapters.ckpt", torch.bfloat16)
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(
        logits_of(rounded, 257).float(), expected, rtol=0, atol=0.08 * expected.std().item()
    )


def test_a_base_that_moved(base: Path, tmp_path: Path) -> None:
    save_adapter_checkpoint(tmp_path / "adapters.ckpt", base)
    before, _ = load_model(tmp_path / "adapters.ckpt")
    base.rename(tmp_path / "elsewhere.ckpt")
    with pytest.raises(MissingFileError) as caught:
        load_model(tmp_path / "adapters.ckpt")
    assert str(caught.value) == (
        f"{tmp_path}/adapters.ckpt holds adapters alone, and their base is not there: model "
        f"{base} does not exist (from {Path.cwd()}); bring it back, or say where it is: lit-gpt "
        f"merge {tmp_path}/adapters.ckpt FOLDER --base MODEL"
    )
    again, _ = load_model(tmp_path / "adapters.ckpt", base=tmp_path / "elsewhere.ckpt")
    assert torch.equal(logits_of(again, 257), logits_of(before, 257))


def test_adapters_for_another_base(base: Path, tmp_path: Path, save_network: SaveNetwork) -> None:
    save_adapter_checkpoint(tmp_path / "adapters.ckpt", base)
    of_old = fingerprint_weights(base)
    save_network(position="rotary", num_kv_heads=1)  # other weights in its place
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "adapters.ckpt")
    assert str(caught.value) == (
        f"{tmp_path}/adapters.ckpt holds adapters for another base: the weights they were trained "
        f"on have sha256 {of_old[:12]}..., those of {base} {fingerprint_weights(base)[:12]}...; "
        "name the model they were trained on: lit-gpt merge "
        f"{tmp_path}/adapters.ckpt FOLDER --base MODEL"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.blocks.0.mlp.up.a"), "blocks.0.mlp.up.a is missing"),
        (
            lambda weights: weights.update({"model.blocks.9.a": torch.ones(1)}),
            "blocks.9.a is no weight of this network",
        ),
        (
            lambda weights: weights.update({"model.blocks.0.mlp.up.a": torch.ones(1)}),
            "size mismatch for blocks.0.mlp.up.a",
        ),
    ],
)
def test_adapters_that_do_not_fit(
    base: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "adapters.ckpt"
    save_adapter_checkpoint(path, base)
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, path)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_adapters_of_a_newer_release(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapters.ckpt"
    save_adapter_checkpoint(path, base)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint[KEY]["adapter"]["lora"]["use_magic"] = True
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match="this one does not know use_magic; upgrade"):
        load_model(path)

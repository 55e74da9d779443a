"""Sharded checkpoints are whole or refused, and nothing in them runs."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter

from lit_gpt_kit import GPT, GPTConfig
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.fused_rows import row_order
from lit_gpt_kit.checkpoints.load import load_config, load_model, load_tokenizer
from lit_gpt_kit.checkpoints.locate import find_checkpoint
from lit_gpt_kit.checkpoints.native import DamagedCheckpointError, describe_into, read_checkpoint
from lit_gpt_kit.checkpoints.on_demand import open_model
from lit_gpt_kit.checkpoints.sealed_io import SealedCheckpointIO
from lit_gpt_kit.checkpoints.sharded import (
    CUTS,
    INDEX,
    REST,
    describe_file,
    is_sharded,
    put_together,
    take_apart,
    write_manifest,
)
from lit_gpt_kit.checkpoints.sharded_io import FolderReader
from lit_gpt_kit.errors import InputError
from tests.chat_templates import plain_tokenizer

CONFIG = GPTConfig(257, num_layers=1, num_heads=4, num_kv_heads=2, embed_dim=16, block_size=8)


def checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.randn(257, 16), "amsgrad": False}
    content: dict[str, Any] = {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"params": [0]}]}],
        "global_step": 3,
    }
    describe_into(content, CONFIG, plain_tokenizer(None))
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As two ranks that cut layers would write it."""
    rest, tensors = take_apart(checkpoint())
    name, splits = "state_dict.model.blocks.0.attention.qkv.weight", [16, 8, 8]
    tensors[name] = tensors[name][row_order(splits, 2)]
    rest[CUTS] = {name: {"num_pieces": 2, "splits": splits}}
    path = tmp_path / "last.ckpt"
    dcp.save(tensors, storage_writer=FileSystemWriter(path), no_dist=True)
    torch.save(rest, path / REST)
    write_manifest(path, {file.name: describe_file(file) for file in path.iterdir()})
    return path


def assert_same(actual: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list):
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


def test_taken_apart_and_put_together_it_is_the_same() -> None:
    rest, tensors = take_apart(checkpoint())
    assert "optimizer_states.0.state.0.exp_avg" in tensors
    assert rest["optimizer_states"][0]["state"] == {0: {"amsgrad": False}}
    assert_same(put_together(rest, tensors), checkpoint())


def test_a_folder_reads_as_the_file_that_one_process_writes(folder: Path) -> None:
    assert is_sharded(folder)
    assert_same(read_checkpoint(folder), checkpoint())


def test_a_folder_is_a_model(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    weights = checkpoint()["state_dict"]
    assert_same(dict(model.state_dict()), {n.removeprefix("model."): w for n, w in weights.items()})
    assert load_config(folder) == CONFIG
    assert load_tokenizer(folder).fingerprint == tokenizer.fingerprint


def test_weights_are_read_one_at_a_time(folder: Path) -> None:
    opened = open_model(folder)
    for name, parameter in opened.model.named_parameters():
        assert parameter.is_meta
        room = torch.empty(parameter.shape)
        opened.fill(name, room)
        assert torch.equal(room, checkpoint()["state_dict"][f"model.{name}"]), name


def test_its_fingerprint_is_that_of_its_content(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy.ckpt")
    assert fingerprint_weights(copy) == fingerprint_weights(folder)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][INDEX]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert fingerprint_weights(copy) != fingerprint_weights(folder)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("spoil", [damage, cut_short])
@pytest.mark.parametrize("name", ["__0_0.distcp", INDEX, REST])
def test_a_spoiled_file_is_named(name: str, spoil: Any, folder: Path) -> None:
    spoil(folder / name)
    with pytest.raises(InputError) as refused:
        read_checkpoint(folder)
    assert str(refused.value) == (
        f"{folder} is not a whole checkpoint, {name} is cut short or altered; there is no whole "
        "one beside it"
    )


def test_a_missing_file_is_named_and_the_newest_whole_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("previous.ckpt", "best.ckpt"):
        shutil.copytree(folder, tmp_path / name)
    (folder / "__0_0.distcp").unlink()
    damage(tmp_path / "best.ckpt" / "__0_0.distcp")  # newer, and not whole either
    with pytest.raises(DamagedCheckpointError) as refused:
        read_checkpoint(folder)
    assert str(refused.value) == (
        f"{folder} is not a whole checkpoint, __0_0.distcp is missing; the newest whole one beside "
        f"it is {tmp_path / 'previous.ckpt'}"
    )
    assert refused.value.other == tmp_path / "previous.ckpt"


def test_a_newer_format_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format_version": 2, "files": {}}))
    with pytest.raises(InputError, match="of sharded format 2, newer than 1 that this release"):
        read_checkpoint(folder)


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code ran')",)


@pytest.mark.parametrize(("name", "said"), [(INDEX, "builtins.exec"), (REST, "not a whole")])
def test_nothing_in_it_runs(name: str, said: str, folder: Path) -> None:
    (folder / "manifest.json").unlink()  # as where another program wrote it
    (folder / name).write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InputError, match=said):
        read_checkpoint(folder)


def test_a_run_folder_finds_it(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    last = run / "checkpoints" / "last.ckpt"
    folder.rename(last)
    assert find_checkpoint(run) == last
    # A crash between two renames.
    aside = last.with_name(".last.ckpt.old")
    last.rename(aside)
    assert find_checkpoint(run) == find_checkpoint(last) == aside


class FilesOnly:
    """What reads and writes files."""

    def load_checkpoint(self, path: Path) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(path, weights_only=True)
        return content

    def save_checkpoint(self, content: dict[str, Any], path: Path) -> None:
        torch.save(content, path)


def test_a_run_on_one_device_reads_it_and_writes_a_file_in_its_place(folder: Path) -> None:
    files: Any = FilesOnly()
    reader = FolderReader(files)
    assert reader.load_checkpoint(folder)["global_step"] == 3
    reader.save_checkpoint({"global_step": 4}, folder)
    assert folder.is_file()
    assert reader.load_checkpoint(folder) == {"global_step": 4}
    previous = folder.with_name("previous.ckpt")
    assert is_sharded(previous)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    SealedCheckpointIO().save_checkpoint({"global_step": 5}, folder)  # in the place of a folder
    assert read_checkpoint(previous) == {"global_step": 4}

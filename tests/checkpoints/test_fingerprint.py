"""A fingerprint belongs to weights: not to their folder, and not to the type they are loaded in."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_gpt_kit import GPT, load_model
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.errors import MissingFileError
from tests.gguf_files import make_file
from tests.transformers_models import build, save


def sha256sum(*files: Path) -> str:
    whole = b"".join(file.read_bytes() for file in files)
    done = subprocess.run(["sha256sum"], input=whole, capture_output=True, check=True)
    return done.stdout.decode().split()[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(build("llama", "grouped"), tmp_path / "theirs")


def test_a_folder_is_its_weights(folder: Path, tmp_path: Path) -> None:
    fingerprint = fingerprint_weights(folder)
    assert fingerprint == sha256sum(folder / "model.safetensors")
    shutil.copytree(folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "README.md").write_text("notes")
    (tmp_path / "elsewhere" / "adapter_model.safetensors").write_text("of others")
    load_model(tmp_path / "elsewhere", torch.bfloat16)
    assert fingerprint_weights(str(tmp_path / "elsewhere")) == fingerprint


def test_other_weights_are_seen(folder: Path, tmp_path: Path) -> None:
    theirs = build("llama", "grouped")
    with torch.no_grad():
        next(theirs.parameters())[0, 0] += 1e-3
    assert fingerprint_weights(save(theirs, tmp_path / "other")) != fingerprint_weights(folder)


def test_all_shards_count(folder: Path, tmp_path: Path) -> None:
    sharded = save(build("llama", "grouped"), tmp_path / "sharded", max_shard_size="40KB")
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert fingerprint_weights(sharded) == sha256sum(*shards)


def test_a_gguf_file(tmp_path: Path) -> None:
    path = make_file("llama").write(tmp_path / "model.gguf")
    assert fingerprint_weights(path) == sha256sum(path)


def test_a_run_folder_is_its_checkpoint(run: Any) -> None:
    assert fingerprint_weights(run.folder) == sha256sum(run.checkpoint)


def test_a_checkpoint(save_network: Callable[..., tuple[Path, GPT]]) -> None:
    path, _ = save_network()
    assert fingerprint_weights(path) == sha256sum(path)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        fingerprint_weights(tmp_path / "nowhere")

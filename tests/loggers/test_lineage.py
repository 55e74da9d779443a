"""What a run started from, and what that came from."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from lit_gpt_kit.checkpoints.seal import read_seal, save_sealed
from lit_gpt_kit.loggers.lineage import describe_lineage
from lit_gpt_kit.loggers.run_file import write_run


def make_run(folder: Path, name: str, lineage: dict[str, object]) -> Path:
    checkpoint = folder / "checkpoints" / "best.ckpt"
    save_sealed({"weight": torch.ones(2)}, checkpoint)
    write_run(folder, {"name": name, "wandb_id": f"id-{name}", "lineage": lineage})
    return checkpoint


def test_new_weights() -> None:
    assert describe_lineage(None, None, None) == {"kind": "new"}


def test_hugging_face_folder_is_known_by_its_hash(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    content = (tmp_path / "model.safetensors").read_bytes()
    assert describe_lineage(str(tmp_path), None, None) == {
        "kind": "pretrained",
        "model": str(tmp_path),
        "path": str(tmp_path),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_adapter_on_fine_tuned_on_pretrained(tmp_path: Path) -> None:
    pretrained = {"kind": "pretrained", "model": "gpt2", "revision": "607a30d"}
    checkpoint = make_run(tmp_path / "tuned", "tuned", pretrained)
    seal = read_seal(checkpoint)
    content = checkpoint.read_bytes()
    assert seal is not None
    assert hashlib.sha256(content[: -len("lit-gpt sha256 ") - 64]).hexdigest() == seal
    lineage = describe_lineage(str(tmp_path / "tuned"), None, "b" * 64)
    assert lineage == {
        "kind": "adapter",
        "model": str(tmp_path / "tuned"),
        "sha256": "b" * 64,
        "path": str(checkpoint),
        "seal": seal,
        "run": {"folder": str(tmp_path / "tuned"), "name": "tuned", "wandb_id": "id-tuned"},
        "from": pretrained,
    }
    assert describe_lineage(None, checkpoint, None)["kind"] == "checkpoint"


def test_what_is_not_there_is_named_all_the_same(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.ckpt")
    assert describe_lineage(gone, None, None) == {"kind": "pretrained", "model": gone}

"""What a run starts from, and what that came from: pretrained, fine-tuned, adapter."""

from pathlib import Path
from typing import Any

from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.hub import is_hub_name
from lit_gpt_kit.checkpoints.locate import locate
from lit_gpt_kit.checkpoints.seal import read_seal
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.loggers.run_file import read_run

MOST_HASHED_BYTES = 2**26
"""Weights without a seal are hashed up to so many bytes, which takes hundredths of a second."""


def describe_lineage(
    pretrained: str | None, checkpoint: Path | None, base_sha256: str | None
) -> dict[str, Any]:
    """What the weights of a run come from, as primitives.

    Args:
        pretrained: the MODEL that it starts from, if it does.
        checkpoint: the checkpoint of another run that it starts from.
        base_sha256: where adapters are trained, the hash of `pretrained`.

    Returns:
        `kind` (new, pretrained, adapter or checkpoint) and, where they are known, `model` as it was
        named, `path`, `revision` on the hub, `sha256` as `fingerprint_weights` counts it, `seal` of
        our own checkpoints, `run` that the weights are of, and `from`, the lineage of that run.
    """
    if checkpoint is not None:
        return {"kind": "checkpoint", **describe_source(str(checkpoint))}
    if pretrained is None:
        return {"kind": "new"}
    kind = "pretrained" if base_sha256 is None else "adapter"
    return {"kind": kind, **describe_source(pretrained, base_sha256)}


def describe_source(model: str, sha256: str | None = None) -> dict[str, Any]:
    """Which weights a MODEL is; without the network, and without reading much.

    Args:
        model: as `load_model` takes it.
        sha256: of its weights, where it is known.
    """
    source: dict[str, Any] = {"model": model, "sha256": sha256}
    named = Path(model).expanduser()
    if not named.exists() and is_hub_name(model):
        source["revision"] = _cached_revision(model)
        return _known(source)
    try:
        path = locate(model)
    except InputError:
        return _known(source)
    source["path"] = str(path.resolve())
    if path.is_file():
        source["seal"] = read_seal(path)
    elif sha256 is None and _size(path) <= MOST_HASHED_BYTES:
        source["sha256"] = fingerprint_weights(path)
    run_dir = path.resolve().parent.parent
    run = read_run(run_dir)
    if run:
        kept = {key: run.get(key) for key in ("name", "wandb_id", "wandb_artifact")}
        source["run"] = {"folder": str(run_dir), **_known(kept)}
        source["from"] = run.get("lineage")
    return _known(source)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _cached_revision(model: str) -> str | None:
    """The commit of a hub's model in the cache, whose folder is called after it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

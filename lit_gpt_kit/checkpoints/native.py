"""Our own checkpoints: Lightning's, made self-contained.

Beside the weights a checkpoint holds the network's configuration and the tokenizer, all of it
tensors and primitives, so that `torch.load(weights_only=True)` reads it and nothing in it runs.
"""

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from lit_gpt_kit.checkpoints.seal import has_good_seal
from lit_gpt_kit.checkpoints.sharded import (
    DamagedFolderError,
    is_sharded,
    read_rest,
    read_sharded,
    verify,
)
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.lora import LoRAConfig
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

KEY = "lit_gpt_kit"
FORMAT_VERSION = 1
"""Raised when an older release could not read what is written now."""
BEST_FILE = "best.ckpt"
LAST_FILE, PREVIOUS_FILE = "last.ckpt", "previous.ckpt"
"""The state to go on from, and what it was before, should the first be damaged."""
TRAINED_WEIGHTS = "trained_weights"
"""Key of a callback's state that holds the weights to train on with, where those of the checkpoint
are others, such as an average of them."""
NETWORK_PREFIX = "model."
"""The network's attribute name in a task, with which its weights' names begin."""


@dataclass(frozen=True)
class AdapterOrigin:
    """What the trained tensors of a checkpoint that holds no others belong to.

    Attributes:
        lora: of which kind they are.
        base: the MODEL they were trained on.
        base_sha256: of its weights, as `fingerprint_weights` counts it.
    """

    lora: LoRAConfig
    base: str
    base_sha256: str


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about its model, the weights aside."""

    config: GPTConfig
    tokenizer: Tokenizer | None
    adapter: AdapterOrigin | None = None


def describe_into(
    checkpoint: dict[str, Any],
    config: GPTConfig,
    tokenizer: Tokenizer | None,
    adapter: AdapterOrigin | None = None,
) -> None:
    """Write the description into a checkpoint that Lightning is about to save."""
    checkpoint[KEY] = {
        "format_version": FORMAT_VERSION,
        "gpt": asdict(config),
        "tokenizer": None if tokenizer is None else tokenizer.state(),
    }
    if adapter is not None:
        checkpoint[KEY]["adapter"] = asdict(adapter)


def read_description(checkpoint: dict[str, Any], name: str = "the checkpoint") -> Description:
    """The description in a loaded checkpoint.

    Raises:
        InputError: it was not written by this package, or by a newer release.
    """
    if KEY not in checkpoint:
        raise InputError(f"{name} was not written by lit-gpt: it has no '{KEY}' entry")
    entry = checkpoint[KEY]
    version = entry["format_version"]
    if version > FORMAT_VERSION:
        raise InputError(
            f"{name} is of format {version}, newer than format {FORMAT_VERSION} that this release "
            "reads; upgrade lit-gpt-kit"
        )
    adapter = entry.get("adapter")
    _refuse_unknown(entry["gpt"], GPTConfig, name)
    if adapter is not None:
        _refuse_unknown(adapter, AdapterOrigin, name)
        _refuse_unknown(adapter["lora"], LoRAConfig, name)
        adapter = AdapterOrigin(**{**adapter, "lora": LoRAConfig(**adapter["lora"])})
    state = entry["tokenizer"]
    tokenizer = None if state is None else Tokenizer.from_state(state)
    return Description(GPTConfig(**entry["gpt"]), tokenizer, adapter)


def _refuse_unknown(values: dict[str, Any], kind: type[Any], name: str) -> None:
    unknown = sorted(values.keys() - {field.name for field in fields(kind)})
    if unknown:
        raise InputError(
            f"{name} was written by a newer release: this one does not know {', '.join(unknown)}; "
            "upgrade lit-gpt-kit"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The whole checkpoint, its tensors memory-mapped where it is a file.

    Raises:
        MissingFileError: there is no such file.
        DamagedCheckpointError: it is cut short or altered.
        InputError: it holds more than tensors and primitives.
    """
    if is_sharded(path):
        with names_another(path):
            return read_sharded(path)
    if not path.is_file():
        raise MissingFileError(f"checkpoint {path} does not exist")
    refuse_damaged(path)
    try:
        checkpoint = _load(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise DamagedCheckpointError(path) from error
        raise InputError(
            f"{path} holds more than tensors and primitives: {found[1]}, which could run code when "
            "it is read; it was not read"
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise DamagedCheckpointError(path) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


def read_outline(path: Path) -> dict[str, Any]:
    """The checkpoint, perhaps without its tensors, for those who ask what it is of.

    Raises:
        MissingFileError: there is no such file.
        InputError: as in `read_checkpoint`.
    """
    if not is_sharded(path):
        return read_checkpoint(path)
    with names_another(path):
        return read_rest(path)


@contextmanager
def names_another(path: Path) -> Iterator[None]:
    """Have the complaint about a sharded checkpoint that is not whole name one that is.

    Raises:
        DamagedCheckpointError: the body found a file missing, cut short or altered.
    """
    try:
        yield
    except DamagedFolderError as error:
        raise DamagedCheckpointError(path, error.what) from error


def refuse_damaged(path: Path) -> None:
    """Check that a checkpoint is what was sealed; one without a seal may be anything.

    Raises:
        DamagedCheckpointError: it is cut short or altered.
    """
    if has_good_seal(path) is False:
        raise DamagedCheckpointError(path)


class DamagedCheckpointError(InputError):
    """A checkpoint that is not whole; names the one to take instead.

    Attributes:
        other: the newest whole one beside it, if there is one.
    """

    def __init__(self, path: Path, what: str = "it was cut short or altered") -> None:
        self.other = _newest_whole(path)
        remedy = "there is no whole one beside it"
        if self.other is not None:
            remedy = f"the newest whole one beside it is {self.other}"
        super().__init__(f"{path} is not a whole checkpoint, {what}; {remedy}")


def _newest_whole(damaged: Path) -> Path | None:
    others = (path for path in checkpoints_in(damaged.parent) if path != damaged)
    newest_first = sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next((path for path in newest_first if _is_whole(path)), None)


def checkpoints_in(folder: Path) -> list[Path]:
    """What lies there as a checkpoint, or one folder below: names with a metric's "/" make one."""
    return [path for pattern in ("*.ckpt", "*/*.ckpt") for path in folder.glob(pattern)]


def best_of_run(last: Path) -> Path | None:
    """The best checkpoint of a run, by what its last one says of Lightning's ModelCheckpoint.

    Args:
        last: the last checkpoint.

    Returns:
        None where it says nothing of one, or that is gone; a damaged one says nothing.
    """
    outline: Any = {}
    with suppress(Exception):  # a damaged pickle raises anything
        outline = read_rest(last) if is_sharded(last) else _load(last)
    for state in dict(outline.get("callbacks", {})).values():
        if isinstance(state, dict) and state.get("monitor") and state.get("best_model_path"):
            best = Path(state["best_model_path"])
            # The run folder may have been moved since.
            parts = best.parts[len(Path(state.get("dirpath") or "").parts) :]
            for place in (last.parent.joinpath(*parts), best):
                if place.exists():
                    return place
    return None


def _is_whole(path: Path) -> bool:
    if path.is_dir():
        with suppress(InputError):
            verify(path)
            return is_sharded(path)
        return False
    good = has_good_seal(path)
    if good is None:
        with suppress(Exception):  # a damaged pickle raises anything
            return isinstance(_load(path), dict)
    return bool(good)


def keep_previous_as(path: Path) -> Path | None:
    """Under which name a checkpoint that gives way is kept; None where it is not the last one."""
    return path.with_name(PREVIOUS_FILE) if path.name == LAST_FILE else None


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def only_primitives(values: dict[str, Any]) -> dict[str, Any]:
    """The entries that a checkpoint may hold: tensors and primitives, however nested."""
    return {name: value for name, value in values.items() if _is_primitive(value)}


def _is_primitive(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_primitive(item) for item in (*value.keys(), *value.values()))
    if isinstance(value, (list, tuple)):
        return all(_is_primitive(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool, torch.Tensor))

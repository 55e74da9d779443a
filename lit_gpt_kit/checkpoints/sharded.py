"""Sharded checkpoints: a folder into which each rank wrote its share, by torch.distributed.

    last.ckpt/
      manifest.json     size and sha256 of every other file
      meta.pt           all but the large tensors: what a checkpoint in one file holds beside them
      .metadata         which tensor lies where, torch's own index
      __0_0.distcp ...  the tensors, a file or more for each rank

Put together they are what a run on one device writes into one file. Nothing in them is run when
they are read: torch's index is a pickle, of which only the plain records it is made of are allowed.
"""

import hashlib
import json
import os
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from lit_gpt_kit.checkpoints.fused_rows import row_order
from lit_gpt_kit.errors import InputError

MANIFEST, REST, INDEX = "manifest.json", "meta.pt", ".metadata"
FORMAT_VERSION = 1
CUTS = "cut_rows"
"""What of `meta.pt` says in which order tensors' rows are kept."""
WEIGHTS, OPTIMIZERS = "state_dict", "optimizer_states"

RECORDS = {
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}
"""What torch's index is made of: records without code, sizes, paths, and names of types."""


@dataclass(frozen=True)
class Cut:
    """The order of a tensor's rows, where they are cut over devices: see `row_order`."""

    num_pieces: int
    splits: list[int]


def is_sharded(path: Path) -> bool:
    """Whether a path is a checkpoint of this kind."""
    return (path / INDEX).is_file() and (path / REST).is_file()


class DamagedFolderError(InputError):
    """A sharded checkpoint that is not whole.

    Attributes:
        what: the file that is missing, cut short or altered.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.what = what
        super().__init__(f"{folder} is not a whole checkpoint, {what}; use another one")


class SafeReader(FileSystemReader):
    """Torch's reader; its index is not allowed to run anything."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index.

        Raises:
            InputError: it is damaged, or holds more than an index does.
        """
        metadata = read_index(Path(self.path))
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _RecordsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_type_of_numbers = module == "torch" and isinstance(
            getattr(torch, name, None), torch.dtype
        )
        if (module, name) in RECORDS or is_type_of_numbers:
            return super().find_class(module, name)
        raise InputError(
            f"holds more than an index of tensors: {module}.{name}, which could run code when it "
            "is read; it was not read"
        )


def read_index(folder: Path) -> Metadata:
    """Which tensors a checkpoint holds, and where.

    Raises:
        InputError: the index is damaged, or holds more than an index does.
    """
    path = folder / INDEX
    try:
        with path.open("rb") as file:
            index = _RecordsOnly(file).load()
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle raises anything
        raise DamagedFolderError(folder, f"{INDEX} is cut short or altered") from error
    if not isinstance(index, Metadata):
        raise DamagedFolderError(folder, f"{INDEX} is cut short or altered")
    return index


def tensors_in(index: Metadata) -> dict[str, TensorStorageMetadata]:
    """The tensors of a checkpoint by name; what else other programs put there is left alone."""
    found = index.state_dict_metadata.items()
    return {name: value for name, value in found if isinstance(value, TensorStorageMetadata)}


def read_rest(folder: Path) -> dict[str, Any]:
    """All of a checkpoint but its large tensors.

    Raises:
        InputError: the file is damaged, or holds more than tensors and primitives.
    """
    verify(folder, [REST])
    try:
        rest = torch.load(folder / REST, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedFolderError(folder, f"{REST} is cut short or altered") from error
    assert isinstance(rest, dict)
    return rest


def read_sharded(folder: Path) -> dict[str, Any]:
    """The whole checkpoint, as if one process had written it.

    Raises:
        InputError: a file is missing, cut short or altered.
    """
    verify(folder)
    rest = read_rest(folder)
    wanted = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in tensors_in(read_index(folder)).items()
    }
    load_alone(folder, wanted)
    for name, cut in take_cuts(rest).items():
        wanted[name] = wanted[name][row_order(cut.splits, cut.num_pieces).argsort()]
    return put_together(rest, wanted)


def load_alone(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Read tensors into memory of their size, in one process, in the order their rows are kept."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(dict(tensors), storage_reader=SafeReader(folder), no_dist=True)


def take_cuts(rest: dict[str, Any]) -> dict[str, Cut]:
    """Take out what says in which order tensors' rows are kept."""
    return {name: Cut(**cut) for name, cut in rest.pop(CUTS, {}).items()}


def put_together(rest: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors, by their names in a sharded checkpoint, in the places they have in one file."""
    rest.setdefault(WEIGHTS, {})
    for name, tensor in tensors.items():
        kind, _, place = name.partition(".")
        if kind == WEIGHTS:
            rest[WEIGHTS][place] = tensor
        elif kind == OPTIMIZERS:
            number, _, index, key = place.split(".", 3)
            state = rest[OPTIMIZERS][int(number)]["state"]
            state.setdefault(int(index), {})[key] = tensor
    return rest


def take_apart(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The opposite: what goes into `meta.pt`, and the tensors by name."""
    rest = dict(checkpoint)
    tensors = {f"{WEIGHTS}.{name}": tensor for name, tensor in rest.pop(WEIGHTS, {}).items()}
    if OPTIMIZERS in rest:
        rest[OPTIMIZERS] = [dict(optimizer) for optimizer in rest[OPTIMIZERS]]
        for number, optimizer in enumerate(rest[OPTIMIZERS]):
            kept: dict[int, dict[str, Any]] = {}
            for index, values in optimizer["state"].items():
                is_tensor = {key: isinstance(value, torch.Tensor) for key, value in values.items()}
                kept[index] = {key: value for key, value in values.items() if not is_tensor[key]}
                place = f"{OPTIMIZERS}.{number}.state.{index}"
                tensors |= {f"{place}.{key}": values[key] for key in values if is_tensor[key]}
            optimizer["state"] = kept
    return rest, tensors


def describe_file(path: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": sha256}


def write_manifest(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write the manifest, to the disk itself."""
    with (folder / MANIFEST).open("w") as file:
        json.dump({"format_version": FORMAT_VERSION, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> dict[str, dict[str, Any]] | None:
    """File -> its size and hash; None where another program wrote the checkpoint without.

    Raises:
        InputError: it is damaged, or of a newer release.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        version, files = content["format_version"], dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFolderError(folder, f"{MANIFEST} is cut short or altered") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder} is of sharded format {version}, newer than {FORMAT_VERSION} that this "
            "release reads; upgrade lit-gpt-kit"
        )
    return files


def verify(folder: Path, names: list[str] | None = None) -> None:
    """Compare the files of a checkpoint with its manifest.

    Args:
        folder: the checkpoint.
        names: the files to look at; all by default.

    Raises:
        InputError: one is missing, cut short or altered.
    """
    files = read_manifest(folder)
    for name, said in ({} if files is None else files).items():
        if names is not None and name not in names:
            continue
        path = folder / name
        if not path.is_file():
            raise DamagedFolderError(folder, f"{name} is missing")
        if path.stat().st_size != said["size"] or describe_file(path) != said:
            raise DamagedFolderError(folder, f"{name} is cut short or altered")

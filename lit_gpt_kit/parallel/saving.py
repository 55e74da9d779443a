"""Checkpoints of a model that is spread over devices, written and read by all ranks together."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from lit_gpt_kit.checkpoints.fused_rows import row_order
from lit_gpt_kit.checkpoints.native import keep_previous_as, names_another, read_outline
from lit_gpt_kit.checkpoints.sharded import (
    CUTS,
    INDEX,
    OPTIMIZERS,
    REST,
    WEIGHTS,
    Cut,
    SafeReader,
    describe_file,
    is_sharded,
    put_together,
    read_index,
    read_manifest,
    take_apart,
    take_cuts,
    tensors_in,
    verify,
    write_manifest,
)
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import put_in_place, says_when_full
from lit_gpt_kit.parallel.places import Places


def write_sharded(path: Path, checkpoint: dict[str, Any], places: Places) -> None:
    """Write a checkpoint as a folder, which appears whole or not at all; called on all ranks.

    What last.ckpt was before is kept as previous.ckpt.

    Args:
        path: the folder, the same on all ranks.
        checkpoint: Lightning's, whose tensors may be spread over devices.
        places: of the task that it is of.

    Raises:
        InputError: the disk is full; what was there before still is.
    """
    rest, tensors = take_apart(checkpoint)
    cuts = {name: places.cut(name, tensor) for name, tensor in tensors.items()}
    rest[CUTS] = {name: asdict(cut) for name, cut in cuts.items() if cut is not None}
    is_first = dist.get_rank() == 0
    temporary = path.with_name(f".{path.name}.{_from_first(uuid4().hex)}")
    try:
        with _tells_all(), says_when_full(path.parent):
            if is_first:
                temporary.mkdir(parents=True)
        with says_when_full(path.parent):
            _save(tensors, temporary)
        files = _describe_all(temporary)
        with _tells_all(), says_when_full(path.parent):
            if is_first:
                _write_rest(temporary, rest)
                files |= {name: describe_file(temporary / name) for name in (INDEX, REST)}
                write_manifest(temporary, files)
                put_in_place(temporary, path, keep_previous_as(path))
    finally:
        if is_first:
            shutil.rmtree(temporary, ignore_errors=True)


def load_spread(
    path: Path, module: nn.Module, optimizers: Sequence[Optimizer], is_strict: bool
) -> dict[str, Any]:
    """Read a checkpoint, a folder or a file, into a module that is spread over devices.

    Args:
        path: the checkpoint, the same on all ranks.
        module: the weights go there.
        optimizers: their states go there; none where nothing is trained.
        is_strict: each weight must be there.

    Returns:
        The rest of the checkpoint.

    Raises:
        InputError: the checkpoint is damaged, or of another network.
    """
    places = Places(module, optimizers)
    checkpoint = read_outline(path)
    if not optimizers:
        checkpoint.pop(OPTIMIZERS, None)
    if is_sharded(path):
        tensors = _read_shares(path, take_cuts(checkpoint), places, bool(optimizers))
    else:
        checkpoint, wholes = take_apart(checkpoint)
        _check_shapes({name: whole.shape for name, whole in wholes.items()}, places)
        tensors = {name: places.spread(name, whole) for name, whole in wholes.items()}
    checkpoint = put_together(checkpoint, tensors)
    module.load_state_dict(checkpoint.pop(WEIGHTS), strict=is_strict)
    for optimizer, state in zip(optimizers, checkpoint.pop(OPTIMIZERS, []), strict=True):
        optimizer.load_state_dict(state)
    return checkpoint


def _read_shares(
    path: Path, cuts: dict[str, Cut], places: Places, with_optimizers: bool
) -> dict[str, Tensor]:
    """The share of each tensor of a folder that falls to this rank."""
    _verify_together(path)
    found = {
        name: entry
        for name, entry in tensors_in(read_index(path)).items()
        if with_optimizers or not name.startswith(OPTIMIZERS)
    }
    _check_shapes({name: entry.size for name, entry in found.items()}, places)
    tensors = {name: _room(name, entry, cuts, places) for name, entry in found.items()}
    load(dict(tensors), storage_reader=SafeReader(path))
    for name, tensor in tensors.items():
        cut = cuts.get(name)
        if cut != places.cut(name, tensor):  # read whole: it was cut over another number of devices
            if cut is not None:
                tensor = tensor[row_order(cut.splits, cut.num_pieces).argsort()]
            tensors[name] = places.spread(name, tensor)
    return tensors


def _room(name: str, entry: TensorStorageMetadata, cuts: dict[str, Cut], places: Places) -> Tensor:
    """Memory for a tensor: this rank's share of it, where its rows are in our order."""
    dtype, parameter = entry.properties.dtype, places.parameter(name)
    if parameter is None or parameter.shape != entry.size:
        return torch.empty(entry.size, dtype=dtype)
    if cuts.get(name) != places.cut(name, parameter):
        return torch.empty(entry.size, dtype=dtype)
    return torch.empty_like(parameter, dtype=dtype, requires_grad=False)


def _check_shapes(shapes: dict[str, Sequence[int]], places: Places) -> None:
    for name, shape in shapes.items():
        parameter = places.parameter(name)
        if name.startswith(WEIGHTS) and parameter is not None and parameter.shape != shape:
            raise InputError(
                f"the checkpoint holds another network: {name.partition('.')[2]} has shape "
                f"{tuple(shape)} there and {tuple(parameter.shape)} here; use the configuration it "
                "was trained with"
            )


def _verify_together(path: Path) -> None:
    """Each rank reads some of the files again, to compare them with the manifest."""
    names = sorted(read_manifest(path) or ())
    with _tells_all(), names_another(path):
        verify(path, names[dist.get_rank() :: dist.get_world_size()])


@contextmanager
def _tells_all() -> Iterator[None]:
    """Have what befalls the body on one rank be raised on all, which would wait for it in vain.

    Raises:
        InputError: the complaint of the first rank that has one.
    """
    complaint: str | None = None
    try:
        yield
    except (InputError, OSError) as error:
        complaint = str(error)
    complaints: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(complaints, complaint)
    for said in complaints:
        if said is not None:
            raise InputError(said)


def _save(tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        save(tensors, storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:  # what befell a rank, told to all of them
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                raise failure from error
        raise


def _describe_all(folder: Path) -> dict[str, Any]:
    """What the manifest says of the ranks' files, each of which reads its own again."""
    own = folder.glob(f"__{dist.get_rank()}_*")
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, {path.name: describe_file(path) for path in sorted(own)})
    return {name: said for share in shares for name, said in share.items()}


def _write_rest(folder: Path, rest: dict[str, Any]) -> None:
    content = BytesIO()  # of a full disk torch says no more than that it stands at another place
    torch.save(rest, content)
    with (folder / REST).open("wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def _from_first(value: str) -> str:
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]

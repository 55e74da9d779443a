"""The tensors of a folder of safetensors files, one file or many, read memory-mapped."""

import json
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_gpt_kit.errors import InputError, MissingFileError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PIECE_BYTES = 32 * 2**20
"""How much of a tensor is read at once."""
LARGEST_ELEMENT = 4
STORED_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
PICKLES = ("*.bin", "*.pt", "*.pth")


class SafetensorsFolder:
    """The tensors of a Hugging Face folder, by name.

    Raises:
        MissingFileError: there are no weights, or a shard that the index names is not there.
        InputError: a file is cut short or damaged; or the weights are pickles, which are not read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / INDEX
        if index.is_file():
            self._files = _read_index(index)
        elif (folder / SINGLE).is_file():
            self._files = dict.fromkeys(_names(folder / SINGLE), folder / SINGLE)
        else:
            raise _no_weights(folder)
        self._open: tuple[Path, Any] | None = None
        self._num_read = 0

    def files(self) -> list[Path]:
        """The files, by name."""
        return sorted(set(self._files.values()))

    def names(self) -> list[str]:
        """All tensors, file by file."""
        return sorted(self._files, key=lambda name: (self._files[name], name))

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, read from the header alone."""
        return tuple(self._file(name).get_slice(name).get_shape())

    def mapped(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """A tensor whose memory is the file's, private to this process if it is written to."""
        if self._file(name).get_slice(name).get_dtype() != STORED_NAMES.get(dtype):
            return None
        try:
            tensor: Tensor = self._file(name).get_tensor(name)
        except SafetensorError as error:
            raise _damaged(self._files[name], error) from None
        return tensor

    def pieces(self, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """A tensor's rows, some at a time, in the type they have in the file."""
        shape = self.shape(name)
        row_bytes = LARGEST_ELEMENT * prod(shape[1:])
        rows = max(1, PIECE_BYTES // max(1, row_bytes))
        try:
            for start in range(0, shape[0] if shape else 0, rows):
                piece: Tensor = self._file(name).get_slice(name)[start : start + rows]
                if not piece.is_floating_point():
                    raise InputError(
                        f"{self._files[name]}: tensor {name!r} is of {piece.dtype}; quantised "
                        "weights are not supported"
                    )
                self._num_read += piece.nbytes
                yield piece
        except SafetensorError as error:
            raise _damaged(self._files[name], error) from None

    def _file(self, name: str) -> Any:
        # One file is open at a time and not for long: what was read of a mapped file counts as
        # this process's memory until it is closed.
        path = self._files[name]
        if self._open is None or self._open[0] != path or self._num_read > PIECE_BYTES:
            self._open, self._num_read = (path, _open(path)), 0
        return self._open[1]


def _read_index(index: Path) -> dict[str, Path]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: index.parent / file for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is not an index of shards: {error!r}") from None
    for path in sorted(set(shards.values())):
        if path.parent != index.parent:
            raise InputError(f"{index} names {path}, a file outside its folder; it was not read")
        if not os.path.isfile(path):  # unlike pathlib's, not upset by a name that is too long
            raise MissingFileError(
                f"{path} is missing; {index.name} names it. Download the model again, whole"
            )
        there = set(_names(path))
        for name in (name for name, place in shards.items() if place == path):
            if name not in there:
                raise InputError(f"{path} has no tensor {name!r}, which {index.name} says it holds")
    return shards


def _names(path: Path) -> list[str]:
    return list(_open(path).keys())


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is not a whole safetensors file ({error}); it may be cut short, download it again"
    )


def _no_weights(folder: Path) -> InputError:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if not pickles:
        return MissingFileError(f"{folder} holds no weights: there is no {SINGLE} and no {INDEX}")
    return InputError(
        f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when it is "
        "read, so it was not. Where you trust it, convert it: "
        "transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
    )

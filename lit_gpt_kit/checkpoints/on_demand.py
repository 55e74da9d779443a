"""A MODEL whose weights are read one at a time, when somebody has room for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lit_gpt_kit.checkpoints import huggingface
from lit_gpt_kit.checkpoints.families import Family
from lit_gpt_kit.checkpoints.foreign import check_tensors, missing_prefix
from lit_gpt_kit.checkpoints.fused_rows import row_order
from lit_gpt_kit.checkpoints.load import describe_own, load_model, load_tokenizer
from lit_gpt_kit.checkpoints.locate import GGUF_SUFFIX, is_adapter, locate
from lit_gpt_kit.checkpoints.native import NETWORK_PREFIX, read_checkpoint, read_outline
from lit_gpt_kit.checkpoints.safetensors_folder import SafetensorsFolder
from lit_gpt_kit.checkpoints.sharded import (
    WEIGHTS,
    is_sharded,
    load_alone,
    read_rest,
    take_cuts,
    verify,
)
from lit_gpt_kit.checkpoints.tensor_map import Slot, map_tensors
from lit_gpt_kit.checkpoints.translation import read_config
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class OnDemand:
    """A network without memory for its weights, and where they come from.

    Attributes:
        model: the network, in eval mode, its weights on the meta device.
        tokenizer: its tokenizer.
        fill: writes the weight of a name into memory.
    """

    model: GPT
    tokenizer: Tokenizer
    fill: Callable[[str, Tensor], None]


def open_model(name: str | Path) -> OnDemand:
    """A model as `load_model` takes its name, in float32, none of its weights read yet.

    Hugging Face folders and our own checkpoints are read a weight at a time; others are loaded now.

    Raises:
        MissingFileError: there is no such file, folder or model.
        InputError: it is no model, one that is not supported, or a damaged one.
    """
    path = locate(name)
    if huggingface.is_folder(path):
        return _open_folder(path)
    if path.suffix == GGUF_SUFFIX or is_adapter(path):
        return _loaded(name)
    description = describe_own(read_outline(path), path, without_head=True)
    if description.adapter is not None:
        return _loaded(name)
    with torch.device("meta"):
        model = GPT(description.config, initialize=False).eval()
    if is_sharded(path):
        verify(path)
        fill = partial(_fill_from_folder, path)
    else:
        fill = partial(_fill_from, read_checkpoint(path)[WEIGHTS], NETWORK_PREFIX)
    return OnDemand(model, load_tokenizer(path), fill)


def _loaded(name: str | Path) -> OnDemand:
    model, tokenizer = load_model(name, without_head=True)
    weights = dict(model.named_parameters())
    with torch.device("meta"):
        empty = GPT(model.config, initialize=False).eval()
    return OnDemand(empty, tokenizer, partial(_fill_from, weights, ""))


def _open_folder(path: Path) -> OnDemand:
    words = huggingface.read_words(path)
    tokenizer = Tokenizer.from_file(path)
    huggingface.check_vocabulary(words.get("vocab_size"), tokenizer, str(path))
    family, config = read_config(words, str(path))
    with torch.device("meta"):
        model = GPT(config, initialize=False).eval()
    source = SafetensorsFolder(path)
    check_tensors(map_tensors(family, model), config, family, source, str(path))
    return OnDemand(model, tokenizer, ForeignWeights(family, model, source).fill)


class ForeignWeights:
    """The tensors of another format, from which our weights are read one at a time.

    Args:
        family: says which tensor is which part of our weights.
        model: the network, its weights on the meta device; their names are compared already.
        source: the tensors.
    """

    def __init__(self, family: Family, model: GPT, source: SafetensorsFolder) -> None:
        self._source = source
        slots = map_tensors(family, model)
        prefix = missing_prefix(source.names(), slots)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._parts: dict[str, list[tuple[str, Slot, list[str]]]] = {}
        for theirs in source.names():
            slot = slots.get(f"{prefix}{theirs}")
            if slot is None:
                continue
            # A part is one of our weights or a view of it.
            owners = [names[id(p if p._base is None else p._base)] for p in slot.parts]
            for owner in set(owners):
                self._parts.setdefault(owner, []).append((theirs, slot, owners))

    @torch.no_grad()
    def fill(self, name: str, whole: Tensor) -> None:
        """Write a weight into memory of its shape."""
        for theirs, slot, owners in self._parts[name]:
            places = [
                whole.as_strided(part.size(), part.stride(), part.storage_offset())
                if owner == name
                else whole.new_empty(part.shape)
                for part, owner in zip(slot.parts, owners, strict=True)
            ]
            Slot(tuple(places), slot.num_axes).load(self._source.pieces(theirs, whole.dtype))


@torch.no_grad()
def _fill_from(weights: Mapping[str, Tensor], prefix: str, name: str, whole: Tensor) -> None:
    whole.copy_(weights[f"{prefix}{name}"])


@torch.no_grad()
def _fill_from_folder(path: Path, name: str, whole: Tensor) -> None:
    key = f"{WEIGHTS}.{NETWORK_PREFIX}{name}"
    room = torch.empty(whole.shape, dtype=whole.dtype)
    load_alone(path, {key: room})
    cut = take_cuts(read_rest(path)).get(key)
    whole.copy_(room if cut is None else room[row_order(cut.splits, cut.num_pieces).argsort()])

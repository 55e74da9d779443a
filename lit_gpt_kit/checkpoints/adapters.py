"""Adapters in PEFT's folder format: adapter_config.json and adapter_model.safetensors.

PEFT puts adapters beside the layers of transformers' networks. Where those keep in one matrix what
we keep in several parts, or the other way round, A and B are put together or taken apart, so that
both compute the same.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_gpt_kit.checkpoints import huggingface
from lit_gpt_kit.checkpoints.adapter_map import Place, TheirLayer, map_layers
from lit_gpt_kit.checkpoints.export import find_family, save_tensors, write_tokenizer
from lit_gpt_kit.checkpoints.families import FAMILIES
from lit_gpt_kit.checkpoints.locate import ADAPTER_CONFIG, ADAPTER_WEIGHTS, locate
from lit_gpt_kit.checkpoints.native import AdapterOrigin
from lit_gpt_kit.checkpoints.peft_words import AdapterWords, read_words, write_words
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.files import new_folder, says_when_full
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import LoRAConfig, LoRALinear, apply_lora, lora_layers
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

PREFIX = "base_model.model."
A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
NAME = re.compile(rf"{re.escape(PREFIX)}(.+)\.({re.escape(A)}|{re.escape(B)}|{MAGNITUDE})")


def find_model_type(base: str | Path, config: GPTConfig) -> str:
    """The architecture of transformers that a base is, or would be exported as.

    Raises:
        MissingFileError: there is no such model.
        InputError: no architecture can hold it.
    """
    path = locate(base)
    if huggingface.is_folder(path):
        return str(huggingface.read_words(path)["model_type"])
    return find_family(config)


# ---- ours as theirs ----


def save_adapters(
    model: GPT, tokenizer: Tokenizer, folder: Path, origin: AdapterOrigin, model_type: str
) -> None:
    """Write the adapters of a network as a folder, which appears whole or not at all.

    Args:
        model: a network with LoRA.
        tokenizer: its tokenizer, which goes with them.
        folder: where to; it must not exist, or be empty.
        origin: the base they belong to.
        model_type: the architecture of transformers that the base is.

    Raises:
        InputError: the folder is not empty, or the disk is full.
    """
    with new_folder(folder) as place, says_when_full(folder):
        write_adapters(model, tokenizer, place, origin, model_type)


@torch.no_grad()
def write_adapters(
    model: GPT, tokenizer: Tokenizer, folder: Path, origin: AdapterOrigin, model_type: str
) -> None:
    """The same into an empty folder that is there.

    Raises:
        OSError: the disk is full.
    """
    ours = lora_layers(model)
    config = next(iter(ours.values())).config
    theirs = map_layers(FAMILIES[model_type], model.config)
    tensors: dict[str, Tensor] = {}
    num_parts: dict[str, int] = {}
    for name, layer in theirs.items():
        trained = [p for p in layer.places if p.layer in ours and p.part in ours[p.layer].targets]
        if not trained:
            continue
        num_parts[name] = len(trained)
        pairs = [ours[place.layer].part(place.part) for place in trained]
        joined = torch.zeros(layer.num_rows, len(trained) * config.rank)
        for number, (place, (_, b)) in enumerate(zip(trained, pairs, strict=True)):
            columns = slice(number * config.rank, (number + 1) * config.rank)
            joined[place.theirs, columns] = b[place.ours].float().cpu()
        tensors[f"{PREFIX}{name}.{A}"] = torch.cat([a for a, _ in pairs]).float().cpu()
        tensors[f"{PREFIX}{name}.{B}"] = joined
        if config.use_dora:
            lengths = torch.zeros(layer.num_rows)
            for place in layer.places:
                lengths[place.theirs] = _lengths(model, place)[place.ours].float().cpu()
            tensors[f"{PREFIX}{name}.{MAGNITUDE}"] = lengths
    is_transposed = any(theirs[name].is_transposed for name in num_parts)
    write_words(
        folder, config, origin.base, origin.base_sha256, num_parts, list(theirs), is_transposed
    )
    save_tensors(tensors, folder / ADAPTER_WEIGHTS, folder / ADAPTER_CONFIG)
    write_tokenizer(tokenizer, model.config, folder)


def _lengths(model: GPT, place: Place) -> Tensor:
    """DoRA's lengths of a part; of one that is not trained, those of its weights."""
    layer = model.get_submodule(place.layer)
    if isinstance(layer, LoRALinear):
        lengths: dict[str, Tensor] = {**layer.row_lengths(), **layer.magnitude}
        return lengths[place.part]
    assert isinstance(layer, nn.Linear)
    own: Tensor = layer.weight.float().norm(dim=1)
    return own


# ---- theirs as ours ----


@dataclass(frozen=True)
class _Trained:
    """A, B and perhaps lengths of one of our parts, as they come."""

    place: Place
    a: Tensor
    b: Tensor
    scaling: float
    lengths: Tensor | None


@torch.no_grad()
def load_adapters(model: GPT, folder: Path, model_type: str) -> GPT:
    """Put the adapters of a folder beside the layers of their base, for use or more training.

    Args:
        model: the base, changed in place.
        folder: written here or by PEFT.
        model_type: the architecture of transformers that the base is.

    Raises:
        MissingFileError: a file is missing.
        InputError: something is not supported, damaged, or does not fit the network.
    """
    words = read_words(folder)
    layers = map_layers(FAMILIES[model_type], model.config)
    found = [
        part
        for name, tensors in _read_tensors(folder).items()
        for part in _take_apart(name, tensors, layers, words, model)
    ]
    if not found:
        raise InputError(f"{folder / ADAPTER_WEIGHTS} holds no adapters")
    rank = max(len(part.a) for part in found)
    scaling = found[0].scaling
    alpha = scaling * (math.sqrt(rank) if words.use_rslora else rank)
    if words.scaling("", rank) == scaling:
        alpha = words.alpha("")
    config = LoRAConfig(
        rank=rank,
        alpha=alpha,
        dropout=float(words.words.get("lora_dropout", 0.0)),
        targets=tuple(dict.fromkeys(part.place.name for part in found)),
        use_dora=words.use_dora,
        use_rslora=words.use_rslora,
    )
    apply_lora(model, config)
    ours = lora_layers(model)
    for part in found:
        layer = ours[part.place.layer]
        a, b = layer.part(part.place.part)
        a.zero_()[: len(part.a)] = part.a
        b.zero_()[:, : len(part.a)] = part.b * (part.scaling / scaling)
        if part.lengths is not None:
            layer.magnitude[part.place.part].copy_(part.lengths)
    return model


def _take_apart(
    name: str,
    tensors: dict[str, Tensor],
    layers: dict[str, TheirLayer],
    words: AdapterWords,
    model: GPT,
) -> list[_Trained]:
    if name not in layers:
        raise InputError(
            f"{words.name} adapts {name!r}, which is no linear layer of this network; the adapters "
            "belong to another base"
        )
    layer = layers[name]
    wanted = {A, B, MAGNITUDE} if words.use_dora else {A, B}
    if tensors.keys() != wanted:
        odd = min(tensors.keys() ^ wanted)
        raise InputError(f"{words.name}: '{name}.{odd}' is missing, or too much")
    a, b, lengths = tensors[A], tensors[B], tensors.get(MAGNITUDE)
    columns = _width(model, layer.places[0].layer)
    shapes = {A: (len(a), columns), B: (layer.num_rows, len(a)), MAGNITUDE: (layer.num_rows,)}
    for kind, tensor in tensors.items():
        if tensor.shape != shapes[kind]:
            raise InputError(
                f"{words.name}: '{name}.{kind}' has shape {tuple(tensor.shape)}, and "
                f"{shapes[kind]} would fit the base"
            )
    scaling = words.scaling(name, len(a))
    trained = []
    for place in layer.places:
        rows = torch.empty(len(place.ours), len(a))
        rows[place.ours] = b[place.theirs]
        # Of the rows of A that all parts share, each part has those that it reads.
        used = rows.any(dim=0)
        if not used.any() and b.any() and lengths is None:
            continue
        if not used.any():
            used[:] = True
        own = None
        if lengths is not None:
            own = torch.empty(len(place.ours))
            own[place.ours] = lengths[place.theirs]
        trained.append(_Trained(place, a[used], rows[:, used], scaling, own))
    return trained


def _width(model: GPT, layer: str) -> int:
    linear = model.get_submodule(layer)
    assert isinstance(linear, nn.Linear)
    return linear.in_features


def _read_tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Their layers -> what belongs to each, in float32."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise MissingFileError(
            f"{path} does not exist; weights of adapters in a pickle (.bin) are not read, since "
            "reading it can run code"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from None
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        parts = NAME.fullmatch(name)
        if parts is None:
            raise InputError(f"{path}: {name!r} is no tensor of LoRA beside a linear layer")
        layers[parts[1]][parts[2]] = tensor.float()
    return layers

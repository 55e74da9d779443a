"""Which rows of other people's linear layers are which of ours, for adapters beside them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_gpt_kit.checkpoints.families import Family
from lit_gpt_kit.checkpoints.tensor_map import map_tensors
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import layer_parts


@dataclass(frozen=True)
class Place:
    """Where a part of one of our layers lies in a layer of theirs.

    Attributes:
        layer: our layer.
        part: the part's name in it.
        ours: rows of the part.
        theirs: the same rows in their layer.
    """

    layer: str
    part: str
    ours: Tensor
    theirs: Tensor

    @property
    def name(self) -> str:
        """The full name of the part."""
        parent, dot, own = self.layer.rpartition(".")
        return self.layer if own == self.part else f"{parent}{dot}{self.part}"


@dataclass(frozen=True)
class TheirLayer:
    """A linear layer of theirs.

    Attributes:
        places: the parts of ours that it is made of.
        is_transposed: its matrix is kept as (in, out).
    """

    places: tuple[Place, ...]
    is_transposed: bool

    @property
    def num_rows(self) -> int:
        """Its outputs."""
        return sum(len(place.theirs) for place in self.places)


def map_layers(family: Family, config: GPTConfig) -> dict[str, TheirLayer]:
    """Their linear layers by name.

    The layouts that load weights say where each row lies: they are asked for a network each of
    whose matrices holds the numbers of its rows.
    """
    with torch.device("meta"):
        numbered = GPT(config, initialize=False)
    starts: list[int] = []
    parts: list[tuple[str, str]] = []
    total = 0
    for layer, rows_of in layer_parts(numbered).items():
        first = total
        for full, rows in rows_of.items():
            starts.append(total)
            parts.append((layer, full.rpartition(".")[2]))
            total += rows
        numbers = torch.arange(first, total)[:, None]
        numbered.get_submodule(layer).weight = nn.Parameter(numbers, requires_grad=False)
    layers: dict[str, TheirLayer] = {}
    for name, slot in map_tensors(family, numbered).items():
        theirs, _, kind = name.rpartition(".")
        if kind != "weight" or slot.parts[0].is_meta:
            continue
        numbers = slot.read()
        is_transposed = len(numbers) == 1
        numbers = numbers.flatten()
        owners = torch.bucketize(numbers, torch.tensor(starts), right=True) - 1
        places = []
        for owner in sorted(set(owners.tolist())):
            (at,) = torch.where(owners == owner)
            layer, part = parts[owner]
            places.append(Place(layer, part, numbers[at] - starts[owner], at))
        layers[theirs] = TheirLayer(tuple(places), is_transposed)
    return layers

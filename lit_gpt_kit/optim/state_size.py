"""How many numbers an optimiser keeps beside each that it trains, asked of the optimiser itself."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lit_gpt_kit.optim.groups import PARTS

SIDE = 64
"""Of the matrices that are tried; what grows with rows and columns alone is little beside them."""


def state_numbers_by_part(make: Callable[[Iterable[Any]], Optimizer]) -> dict[str, float]:
    """For each part of a network (of PARTS), the numbers kept for each number of its parameters.

    A small parameter of each part is trained for one step, and what is then kept of it counted: two
    for AdamW, one for Muon and for momentum, none for plain SGD.

    Args:
        make: builds the optimiser from parameter groups.
    """
    shapes = {part: (SIDE,) if part == "vectors" else (SIDE, SIDE) for part in PARTS}
    parameters = {part: nn.Parameter(torch.zeros(shape)) for part, shape in shapes.items()}
    optimizer = make(
        [{"params": [p], "name": part, "part": part} for part, p in parameters.items()]
    )
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = {}
    for part, parameter in parameters.items():
        states = optimizer.state[parameter].values()
        sizes = [s.numel() for s in states if isinstance(s, torch.Tensor) and s.numel() > 1]
        kept[part] = sum(sizes) / parameter.numel()
    return kept

"""Parameter groups: what is trained, how fast, and which weight decay falls on."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.patterns import matches, short_names

LAYER = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(token|position|value)_embedding\.")
PARTS = ("hidden", "embeddings", "head", "vectors")
"""What a parameter is: a matrix within the blocks, one that something is looked up in, wherever it
is, another matrix, or a gain or bias."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Leave the parameters out of training that the patterns name.

    Args:
        model: changed in place.
        patterns: of the parameters' names, or of words of them: `token_embedding`,
            `blocks.[0-3]`, `*.norm.*`.

    Raises:
        InputError: a pattern matches no parameter; names those that there are.
    """
    parameters = dict(model.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        found = {name for name in parameters if matches(name, pattern)}
        if not found:
            raise InputError(
                f"pattern {pattern!r} of what to freeze matches no parameter; there are "
                f"{', '.join(short_names(parameters))}"
            )
        frozen |= found
    for name in frozen:
        parameters[name].requires_grad_(False)


def decay_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    layer_lr_decay: float = 1.0,
    num_layers: int = 0,
) -> list[dict[str, Any]]:
    """Parameters by their part in the network, and by layer; decay falls on matrices alone.

    Decay shrinks what a product can undo elsewhere; biases and the gains of norms have no such
    partner (Radford et al. 2018 and every GPT since decay matrices alone).

    With `layer_lr_decay` below 1 what lies deeper learns slower: the head and the last norm at the
    full rate, the topmost block at `layer_lr_decay` times it, each block below at that of the one
    above times it again, the embeddings slowest (Howard and Ruder 2018, section 3.2; counted as in
    BEiT, Bao et al. 2021).

    Args:
        parameters: named parameters; frozen ones are left out.
        layer_lr_decay: share of the learning rate that is left one layer deeper.
        num_layers: of the network; needed where `layer_lr_decay` is below 1.

    Returns:
        Groups that any torch optimiser takes, the fastest first; one without parameters is left
        out. Beside the parameters each has a `name`, its `part` (of PARTS), by which an optimiser
        may treat it, and its share of the rate as `lr_scale`, which `scale_rates` puts into effect.

    Raises:
        InputError: `layer_lr_decay` is out of range.
    """
    if not 0.0 < layer_lr_decay <= 1.0:
        raise InputError(f"layer_lr_decay={layer_lr_decay} must be above 0 and at most 1")
    groups: dict[tuple[int, int], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        depth = 0 if layer_lr_decay == 1.0 else _depth(name, num_layers)
        key = depth, PARTS.index(_part(name, parameter))
        groups.setdefault(key, {"params": []})["params"].append(parameter)
    for (depth, part), group in groups.items():
        place = f"depth {depth}: " if layer_lr_decay < 1.0 else ""
        group["name"] = place + PARTS[part]
        group["part"] = PARTS[part]
        group["lr_scale"] = layer_lr_decay**depth
        if PARTS[part] == "vectors":
            group["weight_decay"] = 0.0
    return [groups[key] for key in sorted(groups)]


def _part(name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim < 2:
        return "vectors"
    if EMBEDDING.search(name):
        return "embeddings"
    return "hidden" if LAYER.search(name) else "head"


def scale_rates(optimizer: Optimizer) -> None:
    """Multiply each group's learning rate by its `lr_scale`, once, before a schedule is made."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)


def _depth(name: str, num_layers: int) -> int:
    """How many layers lie above: 0 for the head, most for the embeddings."""
    found = LAYER.search(name)
    if found is not None:
        return num_layers - int(found[1])
    return num_layers + 1 if EMBEDDING.search(name) else 0


def keep_configured_values(
    optimizer: Optimizer,
    state: dict[str, Any],
    configured: list[dict[str, Any]],
    scheduled: set[str],
) -> dict[str, Any]:
    """Let betas, decay and the like of the configuration win over those of a checkpoint.

    What the schedule moves from step to step stays as it was saved.
    """
    names = set(optimizer.defaults) - scheduled
    groups = [
        {**saved, **{name: value for name, value in group.items() if name in names}}
        for saved, group in zip(state["param_groups"], configured, strict=True)
    ]
    return {**state, "param_groups": groups}

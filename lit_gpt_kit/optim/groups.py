"""Parameter groups: which weight decay falls on, and what a checkpoint may say of them."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer


def decay_groups(parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Two groups: matrices, which the optimiser's weight decay falls on, and the rest, without.

    Decay shrinks what a product can undo elsewhere; biases and the gains of norms have no such
    partner (Radford et al. 2018 and every GPT since decay matrices alone).

    Args:
        parameters: named parameters; frozen ones are left out.

    Returns:
        Groups that any torch optimiser takes; a group without parameters is left out.
    """
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    rest = [parameter for parameter in trained if parameter.ndim < 2]
    groups: list[dict[str, Any]] = []
    if matrices:
        groups.append({"params": matrices})
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0})
    return groups


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

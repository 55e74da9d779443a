"""Weights that are drawn later: a network is built without memory, and filled part by part.

No process need ever hold all of a large network, and each part has the numbers that it would have
had if one process had drawn the whole: how each weight is drawn is noted together with the state of
the random numbers, and repeated when its part is filled.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_gpt_kit.errors import InputError

Fill = Callable[[Tensor], Any]
"""Writes a weight's numbers into memory."""

KEEP_CONTENT = frozenset({"requires_grad_", "detach_", "share_memory_"})
"""Functions that change a tensor, but not its numbers."""
DRAWS_NOTHING = frozenset({"zero_", "fill_", "zeros_", "ones_", "constant_"})
REPLACE_ALL = DRAWS_NOTHING | {"normal_", "uniform_", "kaiming_uniform_", "kaiming_normal_"}
"""Functions after which nothing is left of what the tensor held before."""


class Deferred(TorchFunctionMode):
    """Within it, matrices that are made with `torch.empty` get no memory.

    Vectors (gains, biases) and tables are made as always; they weigh nothing.

    Args:
        device: where numbers are drawn, whose generator one process would use.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        # The tensors are kept so that no other gets their id.
        self._fills: dict[int, tuple[Tensor, list[Fill]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch instead of each of its functions."""
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None and _is_matrix(args, kwargs):
            return func(*args, **{**kwargs, "device": "meta"})
        target = args[0] if args else kwargs.get("tensor")
        if isinstance(target, Tensor) and target.is_meta and _writes(func.__name__):
            rest = args[1:] if args else ()
            kwargs.pop("tensor", None)
            self._note(target, func, rest, kwargs)
            return target
        return func(*args, **kwargs)

    def fill_with(self, parameter: Tensor, fill: Fill) -> None:
        """Have a weight filled in some other way, from a file for instance."""
        if parameter.is_meta:
            self._fills[id(parameter)] = (parameter, [fill])
        else:
            fill(parameter.data)

    @torch.no_grad()
    def materialize(self, module: nn.Module) -> None:
        """Give those weights of a module memory that have none, and fill them."""
        owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.is_meta:
                    owners.setdefault(id(parameter), []).append((part, name))
        for places in owners.values():
            owner, name = places[0]
            empty = owner.get_parameter(name)
            whole = torch.empty(empty.shape, dtype=empty.dtype, device=self.device)
            _, fills = self._fills.pop(id(empty), (None, None))
            if fills is None:
                raise InputError(
                    f"{type(owner).__name__} makes its {name} of other weights, which no device "
                    "has whole where a model is laid over several; train with "
                    "configs/strategies/ddp.yaml"
                )
            for fill in fills:
                fill(whole)
            filled = nn.Parameter(whole, requires_grad=empty.requires_grad)
            for owner, name in places:  # more than one where weights are tied
                setattr(owner, name, filled)

    def _note(self, target: Tensor, func: Any, rest: Iterable[Any], kwargs: dict[str, Any]) -> None:
        state = _generator_state(self.device)
        if func.__name__ not in DRAWS_NOTHING:
            # The generator stands behind these numbers when the next are drawn.
            func(torch.empty(target.shape, dtype=target.dtype, device=self.device), *rest, **kwargs)

        def repeat(whole: Tensor) -> None:
            before = _generator_state(self.device)
            _set_generator_state(self.device, state)
            func(whole, *rest, **kwargs)
            _set_generator_state(self.device, before)

        earlier = [] if func.__name__ in REPLACE_ALL else self._fills.get(id(target), (None, []))[1]
        self._fills[id(target)] = (target, [*earlier, repeat])


def _is_matrix(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    size = kwargs.get("size", args)
    if len(size) == 1 and not isinstance(size[0], int):
        (size,) = size
    return len(size) > 1


def _writes(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and name not in KEEP_CONTENT


def _generator_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_generator_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)

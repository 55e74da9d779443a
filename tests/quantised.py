"""A precision plugin like Lightning's BitsandbytesPrecision, but without a GPU."""

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.plugins.precision.utils import (
    _ClassReplacementContextManager,
    _DtypeContextManager,
)
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn
from torch.nn.modules.linear import Linear


class Quantised(Linear):
    """As Lightning's layers of bitsandbytes: rounds what is loaded, and holds whole numbers."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_load_state_dict_pre_hook(self._quantise)

    @staticmethod
    def _quantise(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        weight = state_dict[f"{prefix}weight"].float()
        steps = (weight * 100).round().clamp(-127, 127).to(torch.int8)
        module.weight = nn.Parameter(steps, requires_grad=False)
        state_dict[f"{prefix}weight"] = steps

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) / 100, self.bias)


class FewBits(Precision):
    """Stands `Quantised` in the place of torch's layer while a network is configured."""

    def tensor_init_context(self) -> AbstractContextManager[Any]:
        return _DtypeContextManager(torch.bfloat16)

    def module_init_context(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(self.tensor_init_context())
        stack.enter_context(_ClassReplacementContextManager({"torch.nn.Linear": Quantised}))
        return stack

    def forward_context(self) -> AbstractContextManager[Any]:
        return _DtypeContextManager(torch.bfloat16)

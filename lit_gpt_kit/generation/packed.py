"""Matrices laid out for a CPU's own kernels: the same numbers, read two to three times faster.

A single row times a matrix is what generation does all day, and torch's general layout is not what
oneDNN's kernels like. The packed copies live beside the weights, as long as the network does.
"""

import copy
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.head import Head, softcap
from lit_gpt_kit.model.lora import LoRALinear

MAX_PACKED_BYTES = 4 * 2**30
"""Larger networks are run as they are: nobody asked for their weights to be there twice."""
ROWS_HINT = 8
"""The layout for so few rows serves one row and a long prompt as well."""
NUM_SAMPLES = 32

Signature = tuple[tuple[int, ...], tuple[tuple[int | float, ...], ...]]
_packed: "WeakKeyDictionary[GPT, tuple[Signature, GPT]]" = WeakKeyDictionary()


class PackedLinear(nn.Module):
    """A linear layer whose matrix is in oneDNN's layout; inference alone.

    Args:
        linear: the layer to copy, in float32 or bfloat16.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.dtype = linear.weight.dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS_HINT)
        self.bias = linear.bias
        self.cap = linear.cap if isinstance(linear, Head) else None

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        # What was frozen for training may be kept in a smaller type than what flows.
        flowing = x.to(self.dtype)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            flowing, self.packed, self.bias, "none", [], ""
        ).to(x.dtype)
        return out if self.cap is None else softcap(out, self.cap)


def pack(model: GPT) -> GPT:
    """The network with packed matrices, all else shared with `model`; or `model` where that is not
    to be had: on another device, in a type that the processor has no kernel for, in training, with
    hooks, or too large.

    The copy is kept until the weights change or the network goes.
    """
    if model.training or not _can_pack(model):
        return model
    signature = _signature(model)
    kept = _packed.get(model)
    if kept is not None and kept[0] == signature:
        return kept[1]
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fast = copy.deepcopy(model, shared)
    for module in list(fast.modules()):
        for name, child in module.named_children():
            if isinstance(child, LoRALinear) and _only_multiplies(child.base):
                # One matrix instead of three, and DoRA's lengths once instead of for each token.
                setattr(module, name, PackedLinear(child.merged(model.dtype)))
            elif isinstance(module, LoRALinear) or not _only_multiplies(child):
                continue
            elif _has_kernel(child.weight.dtype):  # frozen weights may have another than the rest
                setattr(module, name, PackedLinear(child))
    _packed[model] = (signature, fast)
    return fast


def _only_multiplies(module: nn.Module) -> TypeGuard[nn.Linear]:
    return type(module) in (nn.Linear, Head)  # subclasses do more


def _has_kernel(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:  # not on every processor
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _can_pack(model: GPT) -> bool:
    for module in model.modules():
        if module._compiled_call_impl is not None:
            return False  # the compiler has layouts and kernels of its own
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return False  # somebody watches or changes this network, not a copy of it
    if model.device.type != "cpu" or not _has_kernel(model.dtype):
        return False
    return sum(p.nbytes for p in model.parameters()) <= MAX_PACKED_BYTES


def _signature(model: GPT) -> Signature:
    """Changes when a layer or a weight is replaced or written to."""
    return tuple(map(id, model.modules())), tuple(map(_trace, model.parameters()))


def _trace(parameter: nn.Parameter) -> tuple[int | float, ...]:
    """What tells a weight from the same one before a change.

    torch counts writes, but misses those of fused optimisers and those through `.data`. So the
    numbers count too: their sum, which is read about as fast as memory goes, and some of them at
    their places, since a change of order leaves the sum alone.
    """
    flat = parameter.detach().flatten()
    writes = 0 if parameter.is_inference() else parameter._version
    some = flat[:: max(1, len(flat) // NUM_SAMPLES)].tolist()
    # Summed as whole numbers of eight bytes, many times faster than in float64, where they lie so.
    is_whole = not (flat.nbytes % 8 or flat.storage_offset() * flat.itemsize % 8)
    total = flat.view(torch.int64).sum() if is_whole else flat.sum(dtype=torch.float64)
    return (parameter.data_ptr(), writes, total.item(), *some)

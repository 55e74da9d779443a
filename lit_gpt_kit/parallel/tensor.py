"""Tensor parallel: each layer cut over devices, which share their rows (Shoeybi et al. 2019).

Attention is cut by heads and the MLP by hidden units, so that a block needs two sums over the
devices. Embeddings, norms and the head are there on every device, and what flows between blocks is,
too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

from lit_gpt_kit.checkpoints.fused_rows import row_order
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.attention import CausalSelfAttention
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.mlp import MLP


def check_tensor_parallel(config: GPTConfig, size: int, has_adapters: bool) -> None:
    """Check that a network can be cut over so many devices.

    Raises:
        InputError: names what cannot be divided.
    """
    if size == 1:
        return
    counts = {"num_heads": config.num_heads, "num_kv_heads": config.kv_heads,
              "mlp_dim": config.mlp_width}  # fmt: skip
    for name, count in counts.items():
        if count % size:
            raise InputError(
                f"tensor_parallel_size={size} does not divide {name}={count}; choose a size that "
                "does, and share the remaining devices by data_parallel_size"
            )
    if has_adapters:
        raise InputError(
            f"tensor_parallel_size={size} does not cut layers with adapters (lora); use "
            "data_parallel_size alone"
        )
    if config.value_embedding_layers:
        raise InputError(
            f"tensor_parallel_size={size} does not cut value embeddings "
            f"(value_embedding_layers={list(config.value_embedding_layers)}); use "
            "data_parallel_size alone"
        )
    if config.num_experts is not None:
        raise InputError(
            f"tensor_parallel_size={size} does not cut a mixture of experts "
            f"(num_experts={config.num_experts}); use data_parallel_size alone"
        )


def cut_rows(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The weights whose rows are kept in the order of `row_order`, and the rows of their parts."""
    return {
        f"{name}.qkv.{kind}": attention.whole_splits  # type: ignore[misc]
        for name, attention in module.named_modules()
        if isinstance(attention, CausalSelfAttention) and hasattr(attention, "whole_splits")
        for kind, _ in attention.qkv.named_parameters()
    }


class Replicated(ParallelStyle):
    """A module whose weights are whole on each device.

    Args:
        placement: how what it reads is spread over the devices; what it returns is spread alike.
    """

    def __init__(self, placement: Placement | None = None) -> None:
        super().__init__()
        self.placement = placement or Replicate()

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        def read(_: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
            spread = partial(DTensor.from_local, device_mesh=mesh, placements=[self.placement])
            return tuple(spread(x, run_check=False) if _is_plain(x) else x for x in inputs)

        def give(_: nn.Module, output: DTensor, mesh: DeviceMesh) -> Tensor:
            return output.redistribute(placements=[self.placement]).to_local()

        return distribute_module(module, mesh, None, read, give)  # type: ignore[arg-type]


def cut_block(block: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a block's layers over the devices of a mesh of one dimension, in place."""
    for module in list(block.modules()):
        if isinstance(module, CausalSelfAttention):
            _cut_attention(module, mesh)
        elif isinstance(module, MLP):
            for layer in (module.gate, module.up):
                if layer is not None:
                    _apply(ColwiseParallel(), layer, mesh)
            _apply(RowwiseParallel(), module.down, mesh)
    replicate(block, mesh)


def replicate(module: nn.Module, mesh: DeviceMesh) -> None:
    """Keep what is not cut yet whole on every device, in place."""
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        if own and not any(isinstance(parameter, DTensor) for parameter in own):
            _apply(Replicated(), part, mesh)
    if isinstance(module, GPT):
        module.tie_weights()


def _cut_attention(attention: CausalSelfAttention, mesh: DeviceMesh) -> None:
    size = mesh.size()
    order = row_order(attention.splits, size)
    qkv = attention.qkv
    for parameter in qkv.parameters():
        parameter.data = parameter.data[order.to(parameter.device)]
    _apply(ColwiseParallel(), qkv, mesh)
    _apply(RowwiseParallel(), attention.out, mesh)
    attention.whole_splits = tuple(attention.splits)  # type: ignore[assignment]
    attention.splits = [rows // size for rows in attention.splits]
    attention.num_heads //= size
    attention.num_kv_heads //= size
    # Over all heads at once the numbers of a head lie side by side; else heads are an axis.
    heads = Shard(-1) if attention.norms_all_heads else Shard(1)
    for norm in (attention.q_norm, attention.k_norm):
        if norm is not None:
            _apply(Replicated(heads), norm, mesh)
    if attention.dropout_p:
        attention._mix = _own_numbers(attention, mesh)  # type: ignore[method-assign]


def _own_numbers(attention: CausalSelfAttention, mesh: DeviceMesh) -> Callable[..., Tensor]:
    """Its `_mix`, drawing other random numbers on each device of the mesh.

    Other heads drop other weights, while all devices go on with the same numbers afterwards.
    """
    mix, rank = attention._mix, mesh.get_local_rank()

    def mix_own(q: Tensor, *others: Any) -> Tensor:
        if not attention.training:
            return mix(q, *others)
        devices = [] if q.device.type == "cpu" else [q.device]
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng(devices, device_type=q.device.type):
            torch.manual_seed(seed + rank)
            return mix(q, *others)

    return mix_own


def _apply(style: ParallelStyle, module: nn.Module, mesh: DeviceMesh) -> None:
    style.src_data_rank = None  # each rank has the same weights already: nothing need be sent
    style._apply(module, mesh)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, DTensor)

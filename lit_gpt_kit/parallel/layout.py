"""A network laid over a mesh of devices: cut within a copy, and sharded over copies (FSDP2).

The blocks are filled and cut one by one, so that no process ever holds more than its share and one
block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import lora_layers
from lit_gpt_kit.model.norm import LayerNorm, RMSNorm
from lit_gpt_kit.parallel.tensor import check_tensor_parallel, cut_block, replicate

DATA, TENSOR = "data_parallel", "tensor_parallel"
"""Dimensions of the mesh, named by Lightning."""
GATHERED_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class ShardingOptions:
    """How weights are kept and gathered.

    Attributes:
        reshard_after_forward: give a block's gathered weights back after its forward pass, and
            gather them again for the backward pass: less memory, more traffic.
        cpu_offload: keep shards, gradients and the optimiser's state in the host's memory.
        precision: the Trainer's.
    """

    reshard_after_forward: bool = True
    cpu_offload: bool = False
    precision: str = "32-true"


def sharding_options(trainer: Trainer) -> ShardingOptions:
    """What the Trainer's strategy says, or the defaults where it is Lightning's own."""
    chosen = {
        name: getattr(trainer.strategy, name)
        for name in ("reshard_after_forward", "cpu_offload")
        if hasattr(trainer.strategy, name)
    }
    return ShardingOptions(precision=trainer.precision, **chosen)


def lay_out(
    module: nn.Module,
    mesh: DeviceMesh,
    options: ShardingOptions,
    materialize: Callable[[nn.Module], None],
) -> None:
    """Lay the networks of a module over the devices of a mesh, in place.

    Args:
        module: each of its children that has weights is laid out on its own, so that a head beside
            the network is, too.
        mesh: of the dimensions DATA and TENSOR.
        options: how.
        materialize: fills the weights of a module that have no memory yet.
    """
    for child in module.children():
        if not any(True for _ in child.parameters()):
            continue
        if isinstance(child, GPT):
            has_adapters = bool(lora_layers(child))
            check_tensor_parallel(child.config, mesh[TENSOR].size(), has_adapters)
            for block in child.blocks:
                materialize(block)
                if mesh[TENSOR].size() > 1:
                    cut_block(block, mesh[TENSOR])
                _shard(block, mesh, options, is_block=True)
        materialize(child)
        if mesh[TENSOR].size() > 1:
            replicate(child, mesh[TENSOR])
        _shard(child, mesh, options, is_block=False)


def _shard(module: nn.Module, mesh: DeviceMesh, options: ShardingOptions, is_block: bool) -> None:
    if mesh[DATA].size() == 1 and mesh[TENSOR].size() > 1:
        return
    offload = OffloadPolicy()
    if options.cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu")
    shard = partial(fully_shard, mesh=mesh[DATA], offload_policy=offload)
    # The embeddings and the head are used at both ends of a pass, and outside of `forward`.
    stays, in_single = False, MixedPrecisionPolicy(cast_forward_inputs=False)
    if not is_block:
        shard(module, reshard_after_forward=stays, mp_policy=in_single)
        if isinstance(module, GPT):
            # The loss asks for these and feeds the head itself, some rows at a time.
            register_fsdp_forward_method(module, "hidden_states")
        return
    gathered = GATHERED_TYPES.get(options.precision)
    if gathered is not None:
        # As under autocast: matrices are multiplied in half precision, norms are in single.
        norms = [part for part in module.modules() if isinstance(part, (LayerNorm, RMSNorm))]
        shard(norms, reshard_after_forward=stays, mp_policy=in_single)
    policy = MixedPrecisionPolicy(gathered, torch.float32, cast_forward_inputs=False)
    shard(module, reshard_after_forward=options.reshard_after_forward, mp_policy=policy)

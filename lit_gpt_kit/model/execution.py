"""How a finished network is run in training: compiled, or with activations made twice.

Applied from outside; the network's numbers, weights and their names stay what they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.view import View

MATRIX_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
ATTENTION_KERNELS = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
)


@dataclass(frozen=True)
class ExecutionConfig:
    """How the network is run in training; the numbers are the same, time and memory are not."""

    compile: bool = False
    """Compile the blocks (torch.compile), once for all layers. The first steps wait for it."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What is made again in the backward pass instead of being kept: nothing; all but matrix
    products and attention; or whole blocks, which takes a third more time and the least memory."""


def apply_execution(
    model: GPT, config: ExecutionConfig, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Have a network run as configured.

    Args:
        model: changed in place; the names of its weights are not.
        config: how.
        backend: of the compiler.
    """
    if config.compile:
        for block in model.blocks:
            block.compile(backend=backend)
    if config.activation_checkpointing == "full":
        model.run_block = run_twice
    elif config.activation_checkpointing == "selective" and not config.compile:
        # A compiled block makes what is cheap twice by itself. An attention kernel that drops
        # weights must run again, or the random numbers after it would be others.
        kept = MATRIX_PRODUCTS + (() if model.config.dropout else ATTENTION_KERNELS)
        contexts = partial(create_selective_checkpoint_contexts, list(kept))
        model.run_block = partial(run_twice, context_fn=contexts)


def run_twice(
    block: nn.Module, x: Tensor, view: View, cache: KVCache | None, **options: Any
) -> Tensor:
    """Run a block in training without keeping what is in it, and run it again to go backward.

    The second run draws the random numbers (dropout) of the first.
    """
    if cache is not None or not torch.is_grad_enabled():
        out: Tensor = block(x, view, cache)
    else:
        out = checkpoint(block, x, view, use_reentrant=False, **options)
    return out


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    Args:
        device: what it is compiled for.

    Raises:
        InputError: there is no compiler that works.
    """
    tool = "a C++ compiler (g++)" if device.type == "cpu" else "Triton and a C compiler (gcc)"
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:
        raise InputError(
            f"execution.compile=true needs {tool}, and none that works is here; install it, or "
            "leave compile out"
        ) from error

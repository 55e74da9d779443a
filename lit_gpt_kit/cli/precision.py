"""The precision that a machine is fast in, and a Trainer that takes `precision: auto`."""

import warnings
from importlib import import_module
from typing import Any, Literal

import torch
from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator
from lightning.pytorch.plugins import Precision

from lit_gpt_kit.devices import cpu_instructions
from lit_gpt_kit.errors import InputError


class PrecisionTrainer(Trainer):
    """Lightning's Trainer, which also takes `auto` for a precision.

    Args:
        precision: Lightning's, or `auto`: bf16-mixed where that is fast, else 32-true; that of a
            plugin or strategy which brings one.
        accelerator: Lightning's.
        options: Lightning's.

    Raises:
        InputError: bf16 is asked for where the GPU has none.
    """

    def __init__(
        self,
        *,
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        accelerator: str | Accelerator = "auto",
        **options: Any,
    ) -> None:
        if precision == "auto":
            is_chosen = chooses_precision(options.get("plugins"), options.get("strategy"))
            precision = None if is_chosen else choose_precision(accelerator)[0]
        check_precision(precision, accelerator)
        super().__init__(precision=precision, accelerator=accelerator, **options)


def choose_precision(
    accelerator: str | Accelerator = "auto",
) -> tuple[Literal["bf16-mixed", "32-true"], str]:
    """The precision to train in, and why.

    Args:
        accelerator: the Trainer's.
    """
    if _is_cuda(accelerator):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"the {torch.cuda.get_device_name()} has bf16"
        return "32-true", f"the {torch.cuda.get_device_name()} has no bf16"
    if not _is_cpu(accelerator):
        return "32-true", f"as is usual on {accelerator}"
    instructions = cpu_instructions()
    if instructions is None:
        return "32-true", "this processor has no bf16"
    return "bf16-mixed", f"this processor has {instructions}"


def chooses_precision(plugins: Any, strategy: Any = None) -> bool:
    """Whether a plugin, or the strategy, brings a precision of its own, to which `auto` leaves it.

    Args:
        plugins: the Trainer's: one or a list, made or as configured.
        strategy: the Trainer's.
    """
    given = plugins if isinstance(plugins, (list, tuple)) else [plugins]
    given = [*given, getattr(strategy, "_precision_plugin", None)]
    return any(issubclass(_class_of(plugin), Precision) for plugin in given)


def _class_of(plugin: Any) -> type:
    path = getattr(plugin, "class_path", None)  # of one that is not made yet
    if path is None:
        return type(plugin)
    module, _, name = str(path).rpartition(".")
    found: type = getattr(import_module(module), name)
    return found


def check_precision(precision: str | int | None, accelerator: str | Accelerator = "auto") -> None:
    """Say that bf16 is slow where it is.

    Raises:
        InputError: the GPU has none.
    """
    if not str(precision).startswith("bf16"):
        return
    if _is_cuda(accelerator) and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(
            f"precision={precision} needs a GPU with bf16, which the "
            f"{torch.cuda.get_device_name()} is not; use 16-mixed, 32-true or auto"
        )
    if _is_cpu(accelerator) and cpu_instructions() is None:
        warnings.warn(
            f"precision={precision} is slow on this processor, which has no instructions for it; "
            "32-true is faster",
            stacklevel=2,
        )


def _is_cuda(accelerator: str | Accelerator) -> bool:
    is_asked = isinstance(accelerator, CUDAAccelerator) or accelerator in ("auto", "gpu", "cuda")
    return is_asked and torch.cuda.is_available()


def _is_cpu(accelerator: str | Accelerator) -> bool:
    if accelerator == "auto":
        return not torch.accelerator.is_available()
    return isinstance(accelerator, CPUAccelerator) or accelerator == "cpu"

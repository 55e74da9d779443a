"""ShardedStrategy: Lightning's ModelParallelStrategy with all that a run needs around it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer

from lit_gpt_kit.checkpoints.sharded import OPTIMIZERS, WEIGHTS
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.parallel.places import Places
from lit_gpt_kit.parallel.saving import load_spread, write_sharded


class ShardedStrategy(ModelParallelStrategy):
    """A model laid over devices: sharded over its copies (FSDP2) and within each (tensor parallel).

    Checkpoints are folders into which each rank writes its share. They appear whole or not at all,
    are compared with their hashes when they are read, and any number of devices goes on from them.

    Args:
        data_parallel_size: over how many devices rows are shared, and weights with them; "auto" is
            all that `tensor_parallel_size` leaves.
        tensor_parallel_size: over how many devices each layer is cut; it divides the heads.
        reshard_after_forward: give a block's gathered weights back after its forward pass, and
            gather them again for the backward pass: less memory, more traffic.
        cpu_offload: keep weights, gradients and the optimiser's state in the host's memory.
        save_distributed_checkpoint: each rank writes its share into a folder; else the first one
            writes a file, as a run on one device does.
        process_group_backend: "nccl" on GPUs and "gloo" on CPUs by default.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: int = 1,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
    ) -> None:
        sizes = {"data_parallel_size": data_parallel_size,
                 "tensor_parallel_size": tensor_parallel_size}  # fmt: skip
        for name, size in sizes.items():
            if size != "auto" and size < 1:
                raise InputError(f"{name}={size} must be at least 1")
        super().__init__(
            data_parallel_size,
            tensor_parallel_size,
            save_distributed_checkpoint,
            process_group_backend,
        )
        self.tensor_parallel_size = tensor_parallel_size
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload

    def check_devices(self) -> None:
        """Check that the devices come out even, before any process is started.

        Raises:
            InputError: they do not.
        """
        num_devices = self.num_nodes * self.num_processes
        size: Any = self._data_parallel_size
        if size == "auto" and num_devices % self.tensor_parallel_size:
            raise InputError(
                f"tensor_parallel_size={self.tensor_parallel_size} does not divide the "
                f"{num_devices} devices; set trainer.devices to a multiple of it"
            )
        if size != "auto" and size * self.tensor_parallel_size != num_devices:
            raise InputError(
                f"data_parallel_size={size} x tensor_parallel_size={self.tensor_parallel_size} is "
                f"not the {num_devices} devices there are; set trainer.devices (and num_nodes) to "
                "their product, or leave data_parallel_size out"
            )

    def setup_environment(self) -> None:
        """Start the processes' group, and find out which of them share what."""
        self.check_devices()
        if self._data_parallel_size == "auto":
            num_devices = self.num_nodes * self.num_processes
            self._data_parallel_size = num_devices // self.tensor_parallel_size
        super().setup_environment()

    # ---- checkpoints ----

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights: shares of them, or all of them on the first rank."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        if self._save_distributed_checkpoint:
            return state
        places = Places(self.lightning_module, [])
        return self._gather(places, {f"{WEIGHTS}.{name}": value for name, value in state.items()})

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimiser, likewise."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        state: dict[str, Any] = optimizer.state_dict()
        if self._save_distributed_checkpoint:
            return state
        assert self.lightning_module is not None
        places = Places(self.lightning_module, [optimizer])
        for index, values in state["state"].items():
            prefix = f"{OPTIMIZERS}.0.state.{index}"
            tensors = {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
            whole = self._gather(places, {f"{prefix}.{key}": v for key, v in tensors.items()})
            state["state"][index] = {**values, **whole}
        return state

    def _gather(self, places: Places, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Whole tensors, by the last part of their names; none but on the first rank."""
        wholes = {}
        for name, tensor in tensors.items():
            whole = places.gather(name, tensor)
            if self.is_global_zero:
                own = name.partition(".")[2]
                wholes[own if name.startswith(WEIGHTS) else own.split(".", 3)[3]] = whole
        return wholes

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; called on all ranks."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        assert self.lightning_module is not None
        path = Path(self.broadcast(str(filepath)))
        write_sharded(path, checkpoint, Places(self.lightning_module, self.optimizers))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read a checkpoint, a folder or a file; called on all ranks."""
        assert self.lightning_module is not None
        path = Path(self.broadcast(str(checkpoint_path)))
        return load_spread(
            path, self.lightning_module, self.optimizers, self.lightning_module.strict_loading
        )

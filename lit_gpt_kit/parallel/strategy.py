"""ShardedStrategy: Lightning's ModelParallelStrategy with all that a run needs around it."""

from typing import Literal

from lightning.pytorch.strategies import ModelParallelStrategy

from lit_gpt_kit.errors import InputError


class ShardedStrategy(ModelParallelStrategy):
    """A model laid over devices: sharded over its copies (FSDP2) and within each (tensor parallel).

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
        super().__init__(
            data_parallel_size,
            tensor_parallel_size,
            save_distributed_checkpoint,
            process_group_backend,
        )
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """Find out who shares what."""
        if self._data_parallel_size == "auto":
            num_devices = self.num_nodes * self.num_processes
            self._data_parallel_size = num_devices // int(self._tensor_parallel_size)
        super().setup_environment()

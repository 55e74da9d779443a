"""Whether a machine can run a strategy, known before any process is started."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy

from lit_gpt_kit.checkpoints.load import load_config
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.parallel.strategy import ShardedStrategy
from lit_gpt_kit.parallel.tensor import check_tensor_parallel


def check_strategy(trainer: Trainer, module: LightningModule) -> None:
    """Check that the Trainer's strategy can be run here, with this task.

    Raises:
        InputError: says why not.
    """
    strategy: Any = trainer.strategy
    if not isinstance(strategy, ParallelStrategy):
        return
    backend = getattr(strategy, "process_group_backend", None)
    device = strategy.root_device.type
    if backend == "nccl" and device != "cuda":
        raise InputError(
            f"process_group_backend='nccl' is for GPUs, and this run is on {device}; use 'gloo', "
            "or leave it out"
        )
    if isinstance(strategy, ShardedStrategy):
        strategy.check_devices()
    if not isinstance(strategy, ModelParallelStrategy):
        return
    size: Any = strategy._tensor_parallel_size
    config, pretrained = getattr(module, "gpt", None), getattr(module, "pretrained", None)
    if pretrained is not None:
        config = load_config(pretrained)
    if config is not None:
        size = strategy.num_processes if size == "auto" else size
        check_tensor_parallel(config, size, getattr(module, "adapters", None) is not None)

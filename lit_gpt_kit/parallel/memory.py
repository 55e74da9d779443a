"""What one device needs of a network that is laid over several, worked out from its shape alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.memory import (
    ADAMW_NUMBERS,
    COMPUTE_BYTES,
    FLOAT,
    MAX_LOGITS,
    WEIGHT_BYTES,
    Checkpointing,
    Memory,
    Precision,
    memory_to_train,
)
from lit_gpt_kit.model.size import count_by_part

NUM_GATHERED = 2
"""Blocks that are there whole at once: the one at work, and the next one on its way."""


@dataclass(frozen=True)
class Layout:
    """How a network is laid over devices.

    Attributes:
        data_parallel: over how many devices the rows of a step are shared.
        tensor_parallel: over how many devices each layer is cut.
        is_sharded: the devices that share rows share the weights, too (FSDP2).
    """

    data_parallel: int = 1
    tensor_parallel: int = 1
    is_sharded: bool = False

    @property
    def num_devices(self) -> int:
        """All of them."""
        return self.data_parallel * self.tensor_parallel


def memory_per_device(
    config: GPTConfig,
    layout: Layout,
    precision: Precision,
    batch_size: int,
    seq_len: int,
    lora_rank: int | None = None,
    optimizer_numbers: Mapping[str, float] = ADAMW_NUMBERS,
    activation_checkpointing: Checkpointing = "none",
    max_logits: int = MAX_LOGITS,
    is_base_rounded: bool = False,
) -> Memory:
    """What a training step needs on each device; arguments as of `memory_to_train`.

    Tensor parallel is what it is for one device: a network with its share of the heads and of the
    hidden units. Copies of a network (DDP) send gradients from buffers of their size. Shards keep
    their share of weights, gradients and the optimiser's state, and gather blocks as they go.
    """
    config = cut(config, layout.tensor_parallel)
    one = memory_to_train(
        config,
        precision,
        batch_size,
        seq_len,
        lora_rank,
        optimizer_numbers,
        activation_checkpointing,
        max_logits,
        is_base_rounded,
    )
    ranks = layout.data_parallel
    if ranks == 1:
        return one
    if not layout.is_sharded:
        return replace(one, buffers=one.gradients)
    parts = count_by_part(config)
    block = (parts["attention"] + parts["MLP"]) // config.num_layers
    ends = sum(parts.values()) - block * config.num_layers
    # Blocks are gathered in the type that they are computed in, and their gradient is whole before
    # each device takes its share; embeddings and head stay gathered.
    gathered = NUM_GATHERED * block * COMPUTE_BYTES[precision] + ends * WEIGHT_BYTES[precision]
    whole = 0 if lora_rank is not None else block * COMPUTE_BYTES[precision] + ends * FLOAT
    sharded = WEIGHT_BYTES[precision] * sum(parts.values())
    return replace(
        one,
        weights=sharded // ranks,
        gradients=one.gradients // ranks,
        optimizer=one.optimizer // ranks,
        buffers=gathered + whole,
    )


def cut(config: GPTConfig, tensor_parallel: int) -> GPTConfig:
    """The network as one of the devices sees it over which each layer is cut."""
    if tensor_parallel == 1:
        return config
    return replace(
        config,
        head_dim=config.head_width,
        num_heads=config.num_heads // tensor_parallel,
        num_kv_heads=config.kv_heads // tensor_parallel,
        mlp_dim=config.mlp_width // tensor_parallel,
    )

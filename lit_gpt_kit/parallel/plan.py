"""Whether a run fits its devices, and how long it takes, before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lit_gpt_kit.devices import Device
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.flops import training_flops_per_token
from lit_gpt_kit.model.memory import ADAMW_NUMBERS, MAX_LOGITS, Checkpointing, Memory, Precision
from lit_gpt_kit.parallel.memory import Layout, memory_per_device

COMPUTE_OPTIMAL = 20
"""Tokens for each parameter that give the lowest loss for the arithmetic (Hoffmann et al. 2022)."""
MOST_DEVICES = 4096


@dataclass(frozen=True)
class Run:
    """What a configuration says of a run.

    Attributes:
        config: the network's.
        precision: of weights and computation.
        batch_size: rows of a micro-batch on each device.
        seq_len: tokens of a row.
        lora_rank: of adapters, where they alone are trained.
        has_head: the next token is predicted.
        optimizer_numbers, activation_checkpointing, max_logits, is_base_rounded: see
            `memory_to_train`.
    """

    config: GPTConfig
    precision: Precision
    batch_size: int
    seq_len: int
    lora_rank: int | None = None
    optimizer_numbers: Mapping[str, float] = field(default_factory=lambda: ADAMW_NUMBERS)
    activation_checkpointing: Checkpointing = "none"
    max_logits: int = MAX_LOGITS
    is_base_rounded: bool = False
    has_head: bool = True

    def memory(self, layout: Layout, batch_size: int | None = None) -> Memory:
        """What a step needs on each device, perhaps with another micro-batch."""
        return memory_per_device(
            self.config,
            layout,
            self.precision,
            batch_size or self.batch_size,
            self.seq_len,
            self.lora_rank,
            self.optimizer_numbers,
            self.activation_checkpointing,
            self.max_logits if self.has_head else 0,
            self.is_base_rounded,
        )

    @property
    def flops_per_token(self) -> int:
        """Arithmetic of a training step for each token."""
        return training_flops_per_token(
            self.config, self.seq_len, self.lora_rank is not None, self.has_head
        )

    def seconds(
        self, num_tokens: float, device: Device, layout: Layout, utilization: float
    ) -> float:
        """How long so many tokens take.

        Args:
            num_tokens: of the whole run.
            device: of which kind all devices are.
            layout: how many there are.
            utilization: the share of the peak that is reached.
        """
        peak = device.peak_fp32 if self.precision == "fp32" else device.peak_bf16
        return num_tokens * self.flops_per_token / (utilization * peak * layout.num_devices)


def largest_micro_batch(run: Run, layout: Layout, usable_bytes: float) -> int:
    """The most rows of which a step fits a device; 0 where not even one does."""
    if run.memory(layout, 1).total > usable_bytes:
        return 0
    fits, too_many = 1, 2
    while run.memory(layout, too_many).total <= usable_bytes:
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if run.memory(layout, middle).total <= usable_bytes:
            fits = middle
        else:
            too_many = middle
    return fits


def fewest_devices(run: Run, layout: Layout, usable_bytes: float) -> int | None:
    """The smallest number of devices on which a row fits, doubling; None where none does.

    Devices are added to those that share rows; how many a layer is cut over stays as it is.
    """
    ranks = 1
    while ranks * layout.tensor_parallel <= MOST_DEVICES:
        wider = replace(layout, data_parallel=ranks)
        if largest_micro_batch(run, wider, usable_bytes):
            return wider.num_devices
        ranks *= 2
    return None

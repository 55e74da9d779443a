"""What devices can do at most: dense peaks and memory, from their makers' data sheets.

Sheets often print twice the dense figure, for matrices of which half the numbers are zero. Nobody
trains with those, and a utilisation measured against them says nothing.
"""

import os
import re
import time
from dataclasses import dataclass
from functools import cache

from lit_gpt_kit.errors import InputError

MIB, GIB = 2**20, 2**30
TERA = 10**12
PRODUCT_SIZE, EMULATED_PRODUCT_SIZE = 1024, 256
"""Rows and columns of the matrices that a CPU is measured with; fewer in bfloat16 where it has no
instructions for that: a product of the others would take seconds."""

CPU_INSTRUCTIONS = {"amx_bf16": "AMX bf16", "avx512_bf16": "AVX-512 bf16"}
"""What a CPU's torch multiplies bfloat16 with, as `torch.cpu.get_capabilities` calls it."""

USABLE_OF_CPU = 0.6
"""The heap has gaps once freed memory is kept, of half to two thirds of what a step needs."""


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Attributes:
        name: what a person types.
        pattern: regular expression of the whole name that its driver gives it.
        memory_bytes: how much it has.
        peak_bf16: dense floating-point operations a second of its matrix units in bfloat16.
        peak_fp32: the same in float32, as PyTorch multiplies by default (without TF32).
        usable: share of its memory that a run can fill; the rest is the driver's, and lost in gaps.
    """

    name: str
    pattern: str
    memory_bytes: int
    peak_bf16: float
    peak_fp32: float
    usable: float = 0.92

    @property
    def usable_bytes(self) -> float:
        """How much of its memory a run can fill."""
        return self.usable * self.memory_bytes

    def peak(self, precision: str) -> float | None:
        """The peak for one of the Trainer's precisions; None where the table has none."""
        if precision.startswith(("bf16", "16")):
            return self.peak_bf16
        return self.peak_fp32 if precision.startswith("32") else None


DEVICES = {
    device.name: device
    for device in (
        Device("h200", r"NVIDIA H200( SXM)?", 141 * 10**9, 989.4 * TERA, 66.9 * TERA),
        Device("h100", r"NVIDIA H100( SXM5)?( 80GB)?( HBM3)?", 80 * GIB, 989.4 * TERA, 66.9 * TERA),
        Device("h100-pcie", r"NVIDIA H100 PCIe", 80 * GIB, 756.0 * TERA, 51.2 * TERA),
        Device("h100-nvl", r"NVIDIA H100 NVL", 94 * 10**9, 835.5 * TERA, 60.0 * TERA),
        Device("b200", r"NVIDIA B200", 180 * 10**9, 2250.0 * TERA, 75.0 * TERA),
        Device("a100", r"NVIDIA A100.*80GB.*", 80 * GIB, 312.0 * TERA, 19.5 * TERA),
        Device("a100-40gb", r"NVIDIA A100.*40GB.*", 40 * GIB, 312.0 * TERA, 19.5 * TERA),
        Device("l4", r"NVIDIA L4", 24 * 10**9, 121.0 * TERA, 30.3 * TERA),
        Device("4090", r"NVIDIA GeForce RTX 4090", 24 * GIB, 165.2 * TERA, 82.6 * TERA),
        Device("mi300x", r"AMD Instinct MI300X.*", 192 * GIB, 1307.4 * TERA, 163.4 * TERA),
    )
}
"""Name -> what is known of it."""
CPU = "cpu"


def find_device(name: str) -> Device:
    """The device that a person means.

    Raises:
        InputError: it is not in the table; lists those that are.
    """
    wanted = name.strip().lower()
    if wanted == CPU:
        return measure_cpu()
    if wanted not in DEVICES:
        raise InputError(f"--device {name} is not known; known: {', '.join([*DEVICES, CPU])}")
    return DEVICES[wanted]


def device_of_driver(name: str) -> Device | None:
    """The device whose driver calls it `name`; None for one that is not in the table."""
    if " MIG " in name:
        return None  # a slice of a device has a share of its peak
    return next((d for d in DEVICES.values() if re.fullmatch(d.pattern, name)), None)


def cpu_instructions() -> str | None:
    """What this processor multiplies bfloat16 with; None where it has nothing for it."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
    else:  # an older torch tells no more
        has = {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
    return next((name for key, name in CPU_INSTRUCTIONS.items() if has.get(key)), None)


def measure_cpu() -> Device:
    """The processor at hand: its peak measured with matrix products, and its memory."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    threads = torch.get_num_threads()
    bf16, fp32 = measure_peak("bfloat16", threads), measure_peak("float32", threads)
    return Device(CPU, "", memory, bf16, fp32, USABLE_OF_CPU)


@cache
def measure_peak(dtype: str, num_threads: int, seconds: float = 0.2) -> float:
    """The best rate of several matrix products on the CPU, in operations a second.

    Args:
        dtype: torch's name of the numbers' type.
        num_threads: that torch runs now; measured once for each number.
        seconds: spent at most, one product more.
    """
    import torch

    is_emulated = dtype == "bfloat16" and cpu_instructions() is None
    size = EMULATED_PRODUCT_SIZE if is_emulated else PRODUCT_SIZE
    left, right = torch.randn(2, size, size, dtype=getattr(torch, dtype))
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best

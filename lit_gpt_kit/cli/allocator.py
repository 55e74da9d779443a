"""Memory that a training process keeps for the next step instead of giving it back."""

import ctypes
import platform

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 2**30
"""Larger pieces still come from the system; what lies free above so many bytes goes back to it."""
STEP_BYTES = 2**26
"""How much is asked of the system at once."""


def keep_freed_memory() -> bool:
    """Have malloc reuse large pieces of memory; whether it does.

    By glibc's defaults each large tensor is mapped anew and given back when it goes, and the system
    clears its pages every time: with a large vocabulary, half of a step on a CPU. Elsewhere than on
    glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    values = {
        M_MMAP_THRESHOLD: KEPT_BYTES,
        M_TRIM_THRESHOLD: KEPT_BYTES,
        M_TOP_PAD: STEP_BYTES,
    }
    # An older glibc refuses so high a threshold, and takes the others.
    taken = [libc.mallopt(name, value) == 1 for name, value in values.items()]
    return all(taken)

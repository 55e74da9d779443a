"""What is wrong with the input is said once, however many processes of a run find it."""

import sys
from typing import Any

KEY = "lit_gpt_kit/complaints"


def may_complain() -> bool:
    """Whether no other rank has said what is wrong; the first to ask may say it."""
    store = _store()
    try:
        return store is None or bool(store.add(KEY, 1) == 1)
    except RuntimeError:  # the first rank, which holds the store, is gone, and has said it
        return False


def another_complained() -> bool:
    """Whether another rank has said what is wrong, so that this one only lost its company."""
    store = _store()
    try:
        return store is not None and bool(store.add(KEY, 0) > 0)
    except RuntimeError:
        return False


def _store() -> Any:
    """What the ranks share; None where there is one process. Does not import torch."""
    distributed: Any = sys.modules.get("torch.distributed.distributed_c10d")
    if distributed is None or not distributed.is_initialized():
        return None
    return distributed._get_default_store()

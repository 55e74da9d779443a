"""Counting batches and steps, as a checkpoint's loops hold them."""

import copy
from typing import Any

import pytest

from lit_gpt_kit.steps import count_batches


def loops(total: int, current: int, steps: int, num_open: int = 0) -> dict[str, Any]:
    counts = {
        name: {"ready": n, "started": n, "processed": n, "completed": n - num_open}
        for name, n in (("total", total), ("current", current))
    }
    optimizer = {"step": {"total": {"ready": steps, "completed": steps}}}
    return {
        "epoch_loop.batch_progress": {**counts, "is_last_batch": False},
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": optimizer},
    }


@pytest.mark.parametrize("num_open", [0, 1])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 2), (3, 1), (2, 3)])
def test_steps_stay_and_batches_follow(before: int, after: int, num_open: int) -> None:
    state = loops(7 * before, 3 * before, steps=7, num_open=num_open)
    count_batches(state, after)
    assert state == loops(7 * after, 3 * after, steps=7, num_open=num_open)


@pytest.mark.parametrize(
    "state",
    [
        loops(14, 6, steps=7),  # as before
        loops(13, 6, steps=7),  # an epoch's last step was smaller
        loops(0, 0, steps=0),
    ],
)
def test_what_fits_or_is_not_known_stays(state: dict[str, Any]) -> None:
    before = copy.deepcopy(state)
    count_batches(state, 2)
    assert state == before

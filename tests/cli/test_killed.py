"""SIGKILL, which nothing can prepare for: the short version of `tests.benchmarks.resume`."""

import random
from pathlib import Path

import pytest

from tests.benchmarks.resume import (
    STEPS_PER_KILL,
    differences,
    run_killed,
    run_through,
    write_project,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("moments", "devices"),
    [(["cache", "step", "validation", "checkpoint"], 1), (["step", "checkpoint"], 2)],
    ids=["one process", "two processes"],
)
def test_a_killed_run_ends_as_the_one_that_was_not(
    moments: list[str], devices: int, tmp_path: Path
) -> None:
    write_project(tmp_path, num_steps=STEPS_PER_KILL * len(moments), devices=devices)
    kills = run_killed(tmp_path, moments, devices, random.Random(3))
    assert [kill.moment for kill in kills] == moments
    run_through(tmp_path)
    assert differences(tmp_path) == []

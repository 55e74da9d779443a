"""The same global batch gives the same loss and the same gradient, however it is spread.

Held against one process, and that against float64 and torch's own mean.
"""

from pathlib import Path

import pytest
from torch import Tensor

from tests.tasks.equivalence import (
    CASES,
    WAYS,
    Case,
    differences,
    learn_all,
    reference,
    spread_over,
)

BOUND = 1e-6


def check(results: dict[str, dict[Case, dict[str, Tensor]]], num_ranks: int) -> None:
    assert set(results) == {name for name, way in WAYS.items() if way.num_ranks == num_ranks}
    expected = learn_all(1)["one process"]
    for way, cases in results.items():
        assert list(cases) == CASES
        for case, actual in cases.items():
            for name, apart in differences(actual, expected[case]).items():
                assert apart < BOUND, (way, case, name)


def test_one_process_is_the_mean_over_all_targets() -> None:
    results = learn_all(1)
    check(results, 1)
    for case, actual in results["one process"].items():
        for name, apart in differences(actual, reference(*case)).items():
            assert apart < BOUND, (case, name)


def test_packed_rows_are_padded_rows() -> None:
    learned = learn_all(1)["one process"]
    for network in ("gpt2", "llama"):
        packed, padded = learned[network, "packed"], learned[network, "padded"]
        for name, apart in differences(packed, padded).items():
            assert apart < BOUND, (network, name)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    check(spread_over(2, tmp_path), 2)

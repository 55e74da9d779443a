"""Loss and gradient of one global batch, spread in many ways.

`python -m tests.benchmarks.equivalence` prints how far each way is from float64 arithmetic and
torch's own mean, relative to them: of the loss, of the whole gradient, and of the weight whose
gradient is furthest off, over all cases.
"""

import tempfile
from pathlib import Path

import torch

from tests.tasks.equivalence import CASES, WAYS, differences, learn_all, reference, spread_over

COLUMNS = ("loss", "gradient norm", "gradient", "worst tensor")


def main() -> None:
    torch.set_num_threads(1)
    expected = {case: reference(*case) for case in CASES}
    results = learn_all(1)
    with tempfile.TemporaryDirectory() as folder:
        for num_ranks in sorted({way.num_ranks for way in WAYS.values()} - {1}):
            results |= spread_over(num_ranks, Path(folder))
    print(f"| way | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for way in WAYS:
        apart = [differences(results[way][case], expected[case]) for case in CASES]
        worst = [f"{max(of_case[column] for of_case in apart):.1e}" for column in COLUMNS]
        print(f"| {way} | {' | '.join(worst)} |")


if __name__ == "__main__":
    main()

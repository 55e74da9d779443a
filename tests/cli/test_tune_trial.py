"""A trial takes the rows that need most memory, and ends before the machine is out of it."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lit_gpt_kit.cli.tune_batch import TOO_MUCH
from lit_gpt_kit.cli.tune_trial import NUM_STEPS, TrialCLI, longest_rows
from lit_gpt_kit.data.batch_warmup import BatchWarmup

GREEDY = """
import sys, threading
from lit_gpt_kit.cli.tune_trial import end_above, peak_bytes
before = peak_bytes()
held = [b"x" * 2**28]
print(before, peak_bytes(), flush=True)
threading.Thread(target=end_above, args=(peak_bytes() + 2**26,), daemon=True).start()
for _ in range(1024):
    held.append(b"x" * 2**20)
sys.exit("nobody ended it")
"""


def test_takes_the_longest_rows() -> None:
    lengths = np.array([3, 9, 1, 7])
    loader: Any = SimpleNamespace(lengths=lengths, collate=lambda rows: {"row": rows.tolist()})
    batches = list(longest_rows(loader, 2))
    assert batches == [{"row": [1, 3]}] * NUM_STEPS
    assert next(iter(longest_rows(loader, 6))) == {"row": [1, 3, 0, 2, 1, 3]}


def test_rows_of_one_length_come_as_they_are() -> None:
    loader = [torch.zeros(1)]
    assert longest_rows(loader, 4) is loader


@pytest.mark.slow
def test_ends_a_process_that_takes_too_much() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREEDY], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == TOO_MUCH, done.stderr
    before, after = map(int, done.stdout.split())
    assert 2**28 <= after - before < 2**28 + 2**26


def test_reads_whole_batches_whatever_warm_up_there_is() -> None:
    data = SimpleNamespace(train_dataloader=lambda: None, batch_warmup=BatchWarmup(2, 3))
    cli: Any = TrialCLI.__new__(TrialCLI)
    tried: list[Any] = []
    fit = SimpleNamespace(fit=lambda model, datamodule: tried.append(vars(datamodule).copy()))
    vars(cli).update(batch_size=8, limit=0, datamodule=data, model=None, trainer=fit)
    cli.try_it()
    (seen,) = tried
    assert (seen["batch_size"], seen["batch_warmup"], seen["global_batch"]) == (8, None, None)

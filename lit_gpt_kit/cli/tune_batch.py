"""The largest micro-batch that fits: each size is tried in a process of its own.

Lightning's batch-size finder waits for the error of a full GPU, which a CPU never raises: its
system ends the process, or swaps. It lets the global batch grow with the micro-batch, and takes
whatever rows come, where rows differ in length and only the longest ones tell.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_gpt_kit.cli.dry_run import ONE_DEVICE
from lit_gpt_kit.cli.models import GIB, parse_memory
from lit_gpt_kit.errors import InputError

TOO_MUCH = 77
"""The exit status of a trial that was out of memory."""
KILLED = -9
"""That of one which the system ended."""
MOST_ROWS = 2**16
SHARE_OF_FREE = 0.9
CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Trial:
    """A size that was tried.

    Attributes:
        batch_size: rows at once.
        peak_bytes: the most memory it took; None where it did not fit.
        rows_per_second: how fast it was.
        tokens_per_second: likewise, the padding of the longest rows included.
        seconds: of a step of one micro-batch.
    """

    batch_size: int
    peak_bytes: int | None = None
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether it did not run out of memory."""
        return self.peak_bytes is not None


@dataclass(frozen=True)
class Found:
    """The outcome.

    Attributes:
        trials: all sizes that were tried.
        flags: what to give to `fit`.
    """

    trials: list[Trial]
    flags: list[str]


def restrict_to_one_device(settings: Any) -> None:
    """Try on one device, whatever the configuration trains on."""
    for name, value in ONE_DEVICE.items():
        settings.trainer[name] = value


def find_largest(cli: Any, typed: Sequence[str], memory: str | None, longest_step: float) -> Found:
    """Try sizes of the micro-batch, and say how each does.

    Args:
        cli: has built the data module and the Trainer.
        typed: the arguments of `fit`.
        memory: what may be used, such as "16GiB"; None is nine tenths of what is free.
        longest_step: seconds; nothing larger is tried than what takes longer.

    Raises:
        InputError: not even one row fits; or the data module has no batch_size.
    """
    data, trainer = cli.datamodule, cli.trainer
    if not hasattr(data, "batch_size"):
        raise InputError(f"{type(data).__name__} has no batch_size to find")
    if hasattr(cli.model, "leave_weights_out"):
        cli.model.leave_weights_out()
    trainer.strategy.connect(cli.model)
    cli.model.trainer = data.trainer = trainer
    data.prepare_data()  # once, and not within the memory that is measured
    on_cpu = trainer.strategy.root_device.type == "cpu"
    limit = parse_memory(memory) if memory else free_bytes() if on_cpu else None
    rows = rows_of_step(data, trainer)
    sizes = divisors(rows) if rows else even_sizes(MOST_ROWS)
    within = "the device has" if limit is None else f"{limit / GIB:.2f} GiB allow"
    print(f"the largest micro-batch that {within}, each size in a process of its own:")
    step = f", accumulated to the {rows:,} rows of a step" if rows else ""
    print(f"{'batch_size':>12} {'memory':>10} {'tokens/s':>10} {'rows/s':>10}{step}", flush=True)

    def try_size(batch_size: int) -> Trial:
        trial = run_trial(batch_size, limit, typed)
        shown = "does not fit"
        if trial.peak_bytes is not None:
            speed = f"{trial.tokens_per_second:10,.0f} {trial.rows_per_second:10,.1f}"
            times = f"  x {rows // batch_size}" if rows else ""
            shown = f"{trial.peak_bytes / GIB:6.2f} GiB {speed}{times}"
        print(f"{batch_size:12,} {shown}", flush=True)
        return trial

    trials = search(sizes, data.batch_size, try_size, longest_step)
    fitting = [trial for trial in trials if trial.fits]
    if not fitting:
        raise InputError(
            f"not even {sizes[0]} row at a time fits"
            f"{'' if limit is None else f' {limit / GIB:.2f} GiB'}; lower block_size or the "
            "network's size"
        )
    largest = max(fitting, key=lambda trial: trial.batch_size)
    fastest = max(fitting, key=lambda trial: trial.rows_per_second)
    print(f"\nlargest that fits: {largest.batch_size:,}; fastest: {fastest.batch_size:,}")
    return Found(trials, flags_for(largest.batch_size, rows, data))


def flags_for(batch_size: int, rows: int | None, data: Any) -> list[str]:
    """What gives `fit` this micro-batch and the global batch that it had."""
    flags = [f"--data.batch_size={batch_size}"]
    if rows and getattr(data, "global_batch", None) is None:
        flags.append(f"--trainer.accumulate_grad_batches={rows // batch_size}")
    return flags


def rows_of_step(data: Any, trainer: Any) -> int | None:
    """Rows of a step on one device, where they are to stay; None where nothing says so."""
    global_batch = getattr(data, "global_batch", None)
    if global_batch is not None:
        return int(data.batch_size * data._count_micro_batches())
    accumulated = int(trainer.accumulate_grad_batches)
    return data.batch_size * accumulated if accumulated > 1 else None


def divisors(number: int) -> list[int]:
    """Those of a number, rising."""
    return [size for size in range(1, number + 1) if number % size == 0]


def even_sizes(most: int) -> list[int]:
    """Sizes a quarter of a power of two apart, rising: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16."""
    sizes = {part * 2**power for part in (4, 5, 6, 7) for power in range(-2, 30)}
    return sorted(int(size) for size in sizes if size == int(size) and size <= most)


def search(
    sizes: Sequence[int], start: int, try_size: Callable[[int], Trial], longest_step: float
) -> list[Trial]:
    """Try sizes from `start` on, each at least twice the last, then between the last two.

    Args:
        sizes: to choose from, rising.
        start: the first is the largest that is no larger.
        try_size: tries one.
        longest_step: nothing larger is tried than what takes so many seconds.

    Returns:
        The trials in the order they were made.
    """
    trials: list[Trial] = []
    place = max([index for index, size in enumerate(sizes) if size <= start], default=0)
    good, bad = -1, len(sizes)
    while place < bad:
        trials.append(try_size(sizes[place]))
        if not trials[-1].fits:
            bad = place
            break
        good = place
        if trials[-1].seconds > longest_step:
            return trials
        twice = (index for index, size in enumerate(sizes) if size >= 2 * sizes[place])
        # The last of them, where none is twice as large.
        place = next(twice, max(place + 1, len(sizes) - 1))
    while bad - good > 1:
        place = (good + bad) // 2
        trials.append(try_size(sizes[place]))
        if trials[-1].fits:
            good = place
            if trials[-1].seconds > longest_step:
                return trials
        else:
            bad = place
    return trials


def run_trial(batch_size: int, limit: int | None, typed: Sequence[str]) -> Trial:
    """Train a few steps in a process of its own, which a lack of memory may end.

    Raises:
        InputError: it ended for another reason, that of a wrong input.
        RuntimeError: it ended for a fault of ours.
    """
    code = "from lit_gpt_kit.cli.tune_trial import main; main()"
    command = [sys.executable, "-c", code, str(batch_size), str(limit or 0), *typed]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode in (TOO_MUCH, KILLED):
        return Trial(batch_size)
    lines = done.stderr.strip().splitlines() or [""]
    if done.returncode == 2:
        raise InputError(lines[-1].removeprefix("lit-gpt: "))
    if done.returncode != 0:
        raise RuntimeError(f"a trial of batch_size={batch_size} failed:\n{done.stderr}")
    return Trial(batch_size, **json.loads(done.stdout.splitlines()[-1]))


def free_bytes() -> int:
    """Nine tenths of the memory that programs may still take, on Linux; elsewhere of all there is.

    A container may have less than its machine.
    """
    try:
        text = Path("/proc/meminfo").read_text()
        lines = dict(line.split(":") for line in text.splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # where nothing limits it, there is no number
        most = int((CONTAINER / "memory.max").read_text())
        free = min(free, most - int((CONTAINER / "memory.current").read_text()))
    return int(free * SHARE_OF_FREE)

"""A progress bar for work on data: drawn in a terminal, two plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_progress(what: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far work on bytes has come; the body calls what it gets with each advance.

    Args:
        what: the work, as "tokenising".
        total_bytes: how much there is to do; None where nobody knows.
    """
    if not sys.stderr.isatty():
        start, done = time.monotonic(), 0

        def count(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes

        print(f"{what} ...", file=sys.stderr, flush=True)
        yield count
        seconds = time.monotonic() - start
        print(f"{what}: {done / 1e6:,.1f} MB in {seconds:.1f} s", file=sys.stderr, flush=True)
        return

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total_bytes)
        yield lambda num_bytes: progress.advance(task, num_bytes)

"""The processes that Lightning starts beside the first one of a run end when it cannot go on."""

import atexit
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lit_gpt_kit.cli.main import WRONG_INPUT

SECONDS_TO_END = 5.0
"""How long ranks have to end by themselves once one of them has said what is wrong."""
SECONDS_BETWEEN_LOOKS = 0.2

Processes = list["subprocess.Popen[bytes]"]


@contextmanager
def ends_with_its_ranks(launcher: Any) -> Iterator[None]:
    """Have the processes that Lightning starts within the body end when one has wrong input.

    Lightning kills the one that started them where another fails, and leaves the others waiting
    where that one does.

    Args:
        launcher: Lightning's; where it starts no processes, nothing is done.
    """
    if not isinstance(launcher, _SubprocessScriptLauncher):
        yield
        return
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(launcher, is_over), daemon=True).start()
    try:
        yield
    except BaseException:
        # Not before this process has said what is wrong: others ask it whether that is said.
        atexit.register(_end, _take_processes(launcher))
        raise
    finally:
        is_over.set()


def _watch(launcher: _SubprocessScriptLauncher, is_over: threading.Event) -> None:
    """End this process where another has wrong input, and this one waits for it forever."""
    while not is_over.wait(SECONDS_BETWEEN_LOOKS):
        if any(process.poll() == WRONG_INPUT for process in launcher.procs):
            processes = _take_processes(launcher)
            if not is_over.wait(SECONDS_TO_END):
                _kill(processes)
                os._exit(WRONG_INPUT)  # no signal reaches a thread that waits in a collective
            atexit.register(_end, processes)
            return


def _take_processes(launcher: _SubprocessScriptLauncher) -> Processes:
    """The processes, out of sight of Lightning's observer, which would kill this one with them."""
    processes = list(launcher.procs)
    launcher.procs.clear()
    return processes


def _end(processes: Processes) -> None:
    """Wait for processes, and kill those that wait themselves."""
    deadline = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    _kill(processes)


def _kill(processes: Processes) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()

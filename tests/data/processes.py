"""Two processes that make the same thing at once, and one that dies over it."""

import signal
import subprocess
import sys
from pathlib import Path


def race(script: str, *arguments: Path) -> list[str]:
    """What two processes say at last, that said "ready" and then went on at the same time."""
    processes = [_start(script, *arguments) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    words = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return words


def kill_half_way(script: str, *arguments: Path) -> None:
    """Kill a process as soon as it says "half-way"."""
    process = _start(script, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "half-way\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def _start(script: str, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

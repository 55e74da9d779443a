"""A command as a person runs it: in a terminal."""

import os
import pty
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path


def run_in_terminal(
    command: Sequence[str], folder: Path, environment: dict[str, str]
) -> Iterator[bytes]:
    """Run a command to its end; yields what it writes, as it comes.

    Raises:
        RuntimeError: it failed; tells the last that it wrote.
    """
    ours, theirs = pty.openpty()
    tail = b""
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment
    ) as process:
        os.close(theirs)
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            tail = (tail + chunk)[-2000:]
            yield chunk
    os.close(ours)
    if process.returncode:
        text = tail.decode(errors="replace")
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {text}")

"""The path of a Python that starts warm."""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def warm_python() -> str:
    """Takes `SCRIPT ...` and `-m MODULE ...` as Python does; lives as long as this process."""
    if sys.platform != "linux":  # elsewhere no process can be waited for as a file
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    address = folder / "socket"
    environment = {
        **os.environ,
        # Libraries look there for their files when they are imported.
        "HOME": str(folder),
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib")),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    # Ends when its input does, which is when this process ends.
    server = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), str(address)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    path = folder / "python"
    client = f"{sys.executable} -IS {HERE / 'client.py'} {address} {sys.executable}"
    path.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
    path.chmod(0o755)
    return str(path)

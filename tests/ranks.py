"""A module run by several processes at once, as torchrun starts them."""

import os
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.warm.python import warm_python


def run_ranks(module: str, num_ranks: int, *arguments: str, timeout_seconds: float = 240) -> None:
    """Run `python -m MODULE ARGUMENTS` on so many ranks, all of which must succeed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "tests",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [warm_python(), "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{rank}.log" for rank in range(num_ranks)]
        ranks = []
        for rank, log in enumerate(logs):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with log.open("w") as file:
                ranks.append(subprocess.Popen(command, env=own, stdout=file, stderr=file))
        try:
            statuses = [rank.wait(timeout_seconds) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        said = "\n".join(log.read_text()[-4000:] for log in logs)
    assert statuses == [0] * num_ranks, said

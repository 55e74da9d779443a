"""Two nodes of one process each, on this machine, started by the scripts of configs/strategies."""

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.command import EXECUTABLE, environment, run
from tests.conftest import REPOSITORY
from tests.run_dir import read_metrics
from tests.warm.python import warm_python

STRATEGIES = REPOSITORY / "configs" / "strategies"
FIT = ("--config", "tiny.yaml", "--trainer.max_steps=3", "--trainer.val_check_interval=3")
CSV = ("--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=logs")
SHARDED = ("--config", str(STRATEGIES / "fsdp.yaml"))
SRUN = """\
#!/bin/bash
# What srun does for two nodes of one task.
for node in 0 1; do
  SLURM_PROCID=$node SLURM_NODEID=$node SLURM_LOCALID=0 "$@" & tasks[$node]=$!
done
wait ${tasks[0]} && wait ${tasks[1]}
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def start(project: Path, script: str, path: str, **changes: str) -> "subprocess.Popen[str]":
    # A command that is not installed has no console script of its own in PATH.
    path = os.pathsep.join([path, str(EXECUTABLE.parent), os.environ["PATH"]])
    command = ["bash", str(STRATEGIES / script), *FIT, *SHARDED, *CSV, "--run_dir=nodes"]
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment(project, PATH=path, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(project: Path, nodes: list["subprocess.Popen[str]"]) -> None:
    said = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * len(nodes), "\n".join(said)
    assert sum(text.count("done: 3 steps") for text in said) == 1
    alone = run(project, "fit", *FIT, *CSV, "--data.batch_size=8", "--run_dir=alone")
    assert alone.status == 0, alone.err
    ours, expected = read_metrics(project / "nodes"), read_metrics(project / "alone")
    assert [row["step"] for row in ours] == [1, 2, 3]
    for name in ("train/loss", "train/grad_norm", "train/tokens"):
        for one, other in zip(ours, expected, strict=True):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
    assert ours[-1]["val/loss"] == pytest.approx(expected[-1]["val/loss"], rel=1e-5)
    # Each of the two wrote its share.
    shares = (project / "nodes" / "checkpoints" / "last.ckpt").glob("*.distcp")
    assert sorted(path.name for path in shares) == ["__0_0.distcp", "__1_0.distcp"]


@pytest.mark.slow
def test_torchrun_on_two_nodes(project: Path) -> None:
    port = str(free_port())
    shared = {"NUM_NODES": "2", "DEVICES": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    nodes = [start(project, "torchrun.sh", "", **shared, NODE_RANK=str(n)) for n in range(2)]
    check(project, nodes)


@pytest.mark.slow
def test_slurm_on_two_nodes(project: Path) -> None:
    tools = project / "tools"
    tools.mkdir()
    srun = tools / "srun"
    srun.write_text(SRUN)
    warm = tools / "lit-gpt"
    warm.write_text(f'#!/bin/sh\nexec {warm_python()} {EXECUTABLE} "$@"\n')
    for tool in (srun, warm):
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    slurm = {
        "SLURM_JOB_ID": str(free_port()),  # Lightning makes a port of it
        "SLURM_JOB_NAME": "lit-gpt",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "127.0.0.1",
    }
    check(project, [start(project, "slurm.sh", str(tools), **slurm)])


def test_a_script_says_what_is_not_set(tmp_path: Path) -> None:
    command = ["bash", str(STRATEGIES / "torchrun.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 1
    assert "set NUM_NODES, the number of nodes" in done.stderr

"""A run killed with SIGKILL again and again, each time continued, against one that nobody killed.

python -m tests.benchmarks.resume [--kills 20] [--devices 1] [--by_thread] [--seed 0]

A run with dropout, accumulation, several epochs, validations and a checkpoint every few steps is
killed in a step, in a validation, while a checkpoint is written, and while its text is tokenised.
At the end weights, optimiser, schedule and metrics.csv must be those of a run that nobody killed,
bit for bit. With two devices either both processes are killed, or one of them; with --by_thread
checkpoints are written while training goes on.

Batches are read in the process itself, so there are no loader workers whose number could change.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import torch
import yaml

from tests.command import EXECUTABLE, TEXT, environment
from tests.run_dir import without_speed
from tests.warm.python import warm_python

Process: TypeAlias = "subprocess.Popen[bytes]"

PHASE = '''\
"""Writes down what the run is doing."""

from pathlib import Path

from lightning.pytorch import Callback


class Phase(Callback):
    def write(self, trainer, what):
        if trainer.is_global_zero and not trainer.sanity_checking:
            Path("phase.new").write_text(f"{what} {trainer.global_step}")
            Path("phase.new").replace("phase")

    def on_train_batch_start(self, trainer, *args):
        self.write(trainer, "step")

    def on_validation_batch_start(self, trainer, *args):
        self.write(trainer, "validation")
'''
MOST_STEPS_BEFORE_KILL = 12
STEPS_PER_KILL = 20
"""Enough for the steps before it, and for the next validation to come by."""
ASYNC = "lit_gpt_kit.checkpoints.sealed_io.AsyncSealedCheckpointIO"
MOMENTS = ("step", "validation", "checkpoint")
UNFINISHED = {
    "checkpoint": "runs/killed/checkpoints/.*.unfinished",
    "cache": "cache/*/*.unfinished",
}
PATIENCE_SECONDS = 180


@dataclass(frozen=True)
class Kill:
    """One of them.

    Attributes:
        moment: what the run was doing: step, validation, checkpoint or cache.
        step: how many steps were taken by then.
        victims: which processes were killed.
        seconds: how long the process lived.
    """

    moment: str
    step: int
    victims: str
    seconds: float


def write_project(folder: Path, num_steps: int, devices: int = 1, by_thread: bool = False) -> None:
    """A run of so many steps, a validation every 7 and a checkpoint every 5 of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "phase_writer.py").write_text(PHASE)
    (folder / "input.txt").write_text(TEXT * 60)
    last_checkpoint = "lit_gpt_kit.callbacks.last_checkpoint.LastCheckpoint"
    trainer: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": num_steps,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1.0,
        "log_every_n_steps": 2,
        "val_check_interval": 14,
        "check_val_every_n_epoch": None,
        "logger": [],
        "callbacks": [
            {"class_path": "phase_writer.Phase"},
            {"class_path": last_checkpoint, "init_args": {"every_n_steps": 5}},
        ],
    }
    if devices > 1:
        gloo = {"process_group_backend": "gloo"}
        strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": gloo}
        trainer |= {"devices": devices, "strategy": strategy}
    if by_thread:
        trainer["plugins"] = [{"class_path": ASYNC}]
    config = {
        "seed_everything": 0,
        "trainer": trainer,
        "model": {
            "class_path": "lit_gpt_kit.LanguageModeling",
            "init_args": {
                "gpt": {
                    "num_layers": 2,
                    "num_heads": 4,
                    "embed_dim": 128,
                    "block_size": 32,
                    "dropout": 0.1,
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
                "lr_schedule": {
                    "class_path": "lit_gpt_kit.WarmupCosine",
                    "init_args": {"warmup_steps": 5},
                },
            },
        },
        "data": {
            "class_path": "lit_gpt_kit.TextDataModule",
            "init_args": {
                "sources": ["input.txt"],
                "tokenizer": {"kind": "byte"},
                "batch_size": 4,
                "cache_dir": "cache",
            },
        },
    }
    for name in ("killed", "through"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def start(folder: Path, name: str, *flags: str, python: str = sys.executable) -> Process:
    """`lit-gpt fit`, with all its processes in a group of their own."""
    command = [python, str(EXECUTABLE), "fit", f"--config={name}.yaml"]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, f"--run_dir=runs/{name}", *flags],
            cwd=folder,
            env=environment(folder, PYTHONPATH=f"{folder}{os.pathsep}{os.getcwd()}"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def run_through(folder: Path) -> None:
    """The run that nobody kills, which may start warm."""
    status = start(folder, "through", python=warm_python()).wait(PATIENCE_SECONDS)
    assert status == 0, (folder / "through.log").read_text()


def run_killed(folder: Path, moments: list[str], devices: int, chance: random.Random) -> list[Kill]:
    """The run that is killed at each of the moments, as it comes by, and then ends."""
    kills = []
    for number in count():
        checkpoints = folder / "runs/killed/checkpoints"
        if any(checkpoints.glob("*.ckpt")):
            flags = ("--ckpt_path=last",)
        else:  # killed before anything was saved
            shutil.rmtree(folder / "runs/killed", ignore_errors=True)
            flags = ()
        (folder / "phase").unlink(missing_ok=True)
        begin = time.monotonic()
        process = start(folder, "killed", *flags)
        if number < len(moments):
            moment = moments[number]
            step = _wait_for(moment, folder, process, chance)
            if step is not None:
                victims = _kill(process, devices, chance)
                kills.append(Kill(moment, step, victims, time.monotonic() - begin))
                continue
        status = process.wait(PATIENCE_SECONDS)
        assert status == 0, (folder / "killed.log").read_text()[-3000:]
        return kills
    raise AssertionError


def _wait_for(moment: str, folder: Path, process: Process, chance: random.Random) -> int | None:
    """Wait for the moment, some steps after the start; the step, or None if the run ended."""
    first: int | None = None
    wait_steps = chance.randint(1, MOST_STEPS_BEFORE_KILL)
    if moment == "cache":
        shutil.rmtree(folder / "cache", ignore_errors=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        phase, step = "", 0
        with suppress(FileNotFoundError, ValueError):
            phase, number = (folder / "phase").read_text().split()
            step = int(number)
            first = step if first is None else first
        is_late = first is not None and step >= first + wait_steps
        if moment == "cache":
            is_there = any(folder.glob(UNFINISHED["cache"]))
        elif moment == "checkpoint":
            is_there = is_late and any(folder.glob(UNFINISHED["checkpoint"]))
        else:
            is_there = is_late and phase == moment
        if is_there:
            time.sleep(chance.random() * 0.03 if moment in ("step", "validation") else 0.0)
            return step
        time.sleep(0.0005)
    return None


def _kill(process: Process, devices: int, chance: random.Random) -> str:
    """Kill all processes, or one, and wait until none is left."""
    children = _children(process.pid)
    victims = "all"
    if devices > 1 and children and chance.random() < 0.5:
        victims = chance.choice(["first", "second"])
        with suppress(ProcessLookupError):
            os.kill(process.pid if victims == "first" else children[0], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while _group_is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _group_is_alive(process), "a process outlived the others by a minute"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return victims


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _group_is_alive(process: Process) -> bool:
    process.poll()  # a dead child that nobody asked about counts as alive
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        return True
    return False


def differences(folder: Path) -> list[str]:
    """What the killed run has otherwise than the other one."""
    found = []
    paths = [folder / "runs" / name / "checkpoints/last.ckpt" for name in ("killed", "through")]
    ours, theirs = (torch.load(path, weights_only=True) for path in paths)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        mine, other = (
            {name: value for name, value in flatten(state[part]) if not name.endswith(".seconds")}
            for state in (ours, theirs)
        )
        if mine.keys() != other.keys():
            found.append(f"{part}: other entries")
        for name, value in mine.items():
            same = (
                torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
            )
            if not same:
                found.append(f"{part}{name}")
    killed, through = (without_speed(folder / "runs" / name) for name in ("killed", "through"))
    steps = [
        (row["step"], other["step"])
        for row, other in zip(killed, through, strict=False)
        if row != other
    ]
    found += [f"metrics.csv, step {step} ({other})" for step, other in steps]
    if len(killed) != len(through):
        found.append(f"metrics.csv: {len(killed)} rows against {len(through)}")
    return found


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and lists, by name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from flatten(item, f"{name}.{number}")
    else:
        yield name, value


def main() -> None:
    """Kill, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--by_thread", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="resume-"))
    chance = random.Random(options.seed)
    moments = ["cache", *(MOMENTS[number % 3] for number in range(options.kills - 1))]
    write_project(folder, options.kills * STEPS_PER_KILL, options.devices, options.by_thread)
    kills = run_killed(folder, moments[: options.kills], options.devices, chance)
    run_through(folder)
    print("| kill | in | after step | killed | lived, seconds |\n|---|---|---|---|---|")
    for number, kill in enumerate(kills, 1):
        print(f"| {number} | {kill.moment} | {kill.step} | {kill.victims} | {kill.seconds:.1f} |")
    found = differences(folder)
    same = "equal, bit for bit" if not found else f"DIFFERENT: {'; '.join(found[:10])}"
    print(
        f"\n{len(kills)} kills, {options.kills * STEPS_PER_KILL} steps; weights, optimiser, "
        f"schedule and metrics.csv of both runs: {same}"
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

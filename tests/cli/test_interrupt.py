"""Ctrl-C: a real signal to a real process; what it saves continues as if nothing had happened."""

import os
import shlex
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.command import run, run_process, start, write_project
from tests.run_dir import only_run, without_speed

STEPS = 8
FIT = ("fit", "--config", "tiny.yaml", "--run_dir=stopped")
GATE = '''\
"""A callback that holds training after a step until a file is there."""

import time
from pathlib import Path

from lightning.pytorch import Callback


class Gate(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args, **kwargs) -> None:
        if trainer.global_step == self.step:
            print("at the gate", flush=True)
            while not Path("open").exists():
                time.sleep(0.01)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A run of eight steps that waits after the fifth, where nothing is saved yet but step 4."""
    project = write_project(tmp_path)
    (project / "gate.py").write_text(GATE)
    config = yaml.safe_load((project / "tiny.yaml").read_text())
    gate = {"class_path": "gate.Gate", "init_args": {"step": 5}}
    config["trainer"] |= {"max_steps": STEPS, "val_check_interval": 4}
    config["model"]["init_args"]["gpt"]["dropout"] = 0.1
    (project / "plain.yaml").write_text(yaml.safe_dump(config))
    config["trainer"]["callbacks"] = [gate]
    (project / "tiny.yaml").write_text(yaml.safe_dump(config))
    return project


def importing(project: Path) -> dict[str, str]:
    """An environment in which the project's modules are found."""
    return {"PYTHONPATH": f"{project}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def read_until(process: "subprocess.Popen[str]", stream: Any, text: str) -> None:
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    for line in stream:
        if text in line:
            break
    else:
        pytest.fail(f"the process ended before it said {text!r}")
    watchdog.cancel()


def interrupt_at_the_gate(project: Path, cold: bool = False) -> "subprocess.Popen[str]":
    process = start(project, *FIT, env=importing(project), cold=cold)
    read_until(process, process.stdout, "at the gate")
    process.send_signal(signal.SIGINT)
    read_until(process, process.stderr, "stopping after this step (Ctrl-C again: at once)")
    return process


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    content = torch.load(checkpoint, weights_only=True)
    values = dict(content["state_dict"])
    for index, moments in content["optimizer_states"][0]["state"].items():
        values |= {f"{name} {index}": value for name, value in moments.items()}
    return values


def test_interrupted_run_continues_as_if_it_had_never_stopped(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = interrupt_at_the_gate(project, cold=True)
    (project / "open").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    last = project / "stopped" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5
    assert "interrupted after step 5; to continue:" in out

    monkeypatch.syspath_prepend(str(project))
    program, *arguments = shlex.split(out.strip().splitlines()[-1])
    assert program == "lit-gpt"
    continued = run(project, *arguments)
    assert continued.status == 0, continued.err
    assert "going on after step 5" in continued.out
    assert run(project, "fit", "--config", "plain.yaml").status == 0
    never_stopped = only_run(project, "plain")
    assert without_speed(project / "stopped") == without_speed(never_stopped)
    expected = state(never_stopped / "checkpoints" / "last.ckpt")
    actual = state(last)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


def test_second_ctrl_c_stops_at_once(project: Path) -> None:
    process = interrupt_at_the_gate(project)
    process.send_signal(signal.SIGINT)  # the gate stays shut: no step ends
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    last = project / "stopped" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert "to continue:" in out


SIGNALS = '''\
"""A callback that sends a signal to its own process in mid-step."""

import os

from lightning.pytorch import Callback


class Send(Callback):
    def __init__(self, number: int, step: int, rank: int = 0) -> None:
        self.number, self.step, self.rank = number, step, rank

    def on_before_optimizer_step(self, trainer, *args) -> None:
        if trainer.global_step + 1 == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)
'''


def write_signal(project: Path, number: int, step: int, rank: int = 0) -> None:
    """sent.yaml: the plain run, in which a process sends itself a signal."""
    (project / "signals.py").write_text(SIGNALS)
    config = yaml.safe_load((project / "plain.yaml").read_text())
    init_args = {"number": int(number), "step": step, "rank": rank}
    config["trainer"]["callbacks"] = [{"class_path": "signals.Send", "init_args": init_args}]
    (project / "sent.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
@pytest.mark.parametrize("step", [3, 4], ids=["in an interval", "before a validation"])
def test_what_a_scheduler_sends_ends_the_step_and_saves(
    number: int, status: int, step: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_signal(project, number, step)
    monkeypatch.syspath_prepend(str(project))
    before = signal.getsignal(number)
    stopped = run(project, "fit", "--config=sent.yaml", "--run_dir=one", "--trainer.logger=[]")
    assert stopped.status == status
    assert f"stopping after this step ({signal.Signals(number).name})" in stopped.err
    assert f"interrupted after step {step}; to continue:" in stopped.out
    assert signal.getsignal(number) is before
    saved = torch.load(project / "one" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step
    rows = without_speed(project / "one")
    assert rows[-1]["step"] == str(step)
    assert bool(rows[-1].get("val/loss")) == (step == 4)


def test_under_slurm_with_requeueing_lightning_answers(project: Path) -> None:
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from lightning.pytorch import Trainer

    from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
    from lit_gpt_kit.cli.interrupt import BROADCAST, StopOnInterrupt

    stop = StopOnInterrupt(LastCheckpoint(project))
    before = signal.getsignal(signal.SIGUSR1)
    for requeues in (True, False):
        trainer = Trainer(accelerator="cpu", logger=False)
        slurm = SLURMEnvironment(auto_requeue=requeues)
        trainer._accelerator_connector.cluster_environment = slurm
        try:
            stop.on_train_start(trainer, None)  # type: ignore[arg-type]
            assert (signal.getsignal(signal.SIGUSR1) == before) == requeues
            # Its loop asks all ranks before each micro-batch, unless it answers the signal.
            assert (BROADCAST in vars(trainer.fit_loop.epoch_loop)) == (not requeues)
        finally:
            signal.signal(signal.SIGUSR1, before)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.slow
def test_one_rank_alone_is_asked_and_all_stop(project: Path) -> None:
    write_signal(project, signal.SIGTERM, step=3, rank=1)
    ddp = "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy"
    gloo = "--trainer.strategy.process_group_backend=gloo"
    flags = ("--config=sent.yaml", "--run_dir=two", "--trainer.logger=[]", "--trainer.devices=2")
    stopped = run_process(project, "fit", *flags, ddp, gloo, env=importing(project))
    assert stopped.status == 143, stopped.err
    assert "Traceback" not in stopped.err
    assert stopped.out.count("interrupted after step 3; to continue:") == 1
    saved = torch.load(project / "two" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3


def test_handler_of_the_caller_comes_back(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    run(project, "fit", "--config", "tiny.yaml", "--trainer.logger=false")
    assert signal.getsignal(signal.SIGINT) is before

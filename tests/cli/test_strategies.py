"""Each file of configs/strategies, layered on a run: trained, continued, exported."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_gpt_kit import load_model
from lit_gpt_kit.checkpoints.native import read_checkpoint
from tests.command import run, run_process
from tests.conftest import REPOSITORY
from tests.run_dir import read_metrics

STRATEGIES = REPOSITORY / "configs" / "strategies"
CSV = ("--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=logs")
FIT = ("fit", "--config", "tiny.yaml")
# A large epsilon: else Adam makes large what is rounding alone.
WHOLE = ("--model.lr_schedule.total_steps=6", "--model.optimizer.eps=1e-3", *CSV)


def layered(name: str, num_devices: int, *flags: str) -> tuple[str, ...]:
    config = ("--config", str(STRATEGIES / f"{name}.yaml"))
    return (*FIT, *config, f"--trainer.devices={num_devices}", *WHOLE, *flags)


@pytest.fixture
def alone(project: Path) -> dict[str, Any]:
    """Six steps of eight rows in one process."""
    result = run(project, *FIT, *WHOLE, "--data.batch_size=8", "--run_dir=alone")
    assert result.status == 0, result.err
    return read_checkpoint(project / "alone" / "checkpoints" / "last.ckpt")


def check(project: Path, run_dir: str, alone: dict[str, Any]) -> None:
    """The run in `run_dir` ended where the one in one process did."""
    rows, expected = read_metrics(project / run_dir), read_metrics(project / "alone")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for name in ("train/loss", "train/grad_norm", "train/lr", "train/tokens"):
        for ours, theirs in zip(rows, expected, strict=True):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5), name
    assert rows[-1]["val/loss"] == pytest.approx(expected[-1]["val/loss"], rel=1e-5)
    last = read_checkpoint(project / run_dir / "checkpoints" / "last.ckpt")
    assert last["lit_gpt_kit"] == alone["lit_gpt_kit"]
    for name, weight in alone["state_dict"].items():
        torch.testing.assert_close(last["state_dict"][name], weight, rtol=1e-4, atol=1e-5)
    exported = run(project, "export", run_dir, f"{run_dir}-out")
    assert exported.status == 0, exported.err
    ids = torch.arange(10)[None]
    theirs, ours = (load_model(project / name)[0] for name in ("alone", f"{run_dir}-out"))
    torch.testing.assert_close(ours(ids), theirs(ids), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_ddp(project: Path, alone: dict[str, Any]) -> None:
    result = run_process(project, *layered("ddp", 2, "--run_dir=ddp"))
    assert result.status == 0, result.err
    check(project, "ddp", alone)


@pytest.mark.slow
def test_fsdp_goes_on_from_its_folders(project: Path, alone: dict[str, Any]) -> None:
    first = run_process(project, *layered("fsdp", 2, "--trainer.max_steps=4", "--run_dir=fsdp"))
    assert first.status == 0, first.err
    assert "on 2 x cpu" in first.out
    folder = project / "fsdp" / "checkpoints"
    names = ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all((folder / name / "manifest.json").is_file() for name in names)
    # Killed as the last one was replaced: the one before goes on.
    shutil.rmtree(folder / "last.ckpt")
    assert read_checkpoint(folder / "previous.ckpt")["global_step"] == 3
    again = ("--run_dir=fsdp", "--ckpt_path=last")
    second = run_process(project, *layered("fsdp", 2, *again))
    assert second.status == 0, second.err
    assert second.out.count("done: 6 steps") == 1
    check(project, "fsdp", alone)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_devices"), [("tensor-parallel", 2), ("fsdp-tp", 4)])
def test_one_device_goes_on_from_cut_layers(
    name: str, num_devices: int, project: Path, alone: dict[str, Any]
) -> None:
    rows = ("--data.batch_size=8" if name == "tensor-parallel" else "--data.batch_size=4",)
    flags = ("--trainer.max_steps=4", "--run_dir=cut", *rows)
    first = run_process(project, *layered(name, num_devices, *flags))
    assert first.status == 0, first.err
    last = project / "cut" / "checkpoints" / "last.ckpt"
    assert last.is_dir()
    again = ("--data.batch_size=8", "--run_dir=cut", "--ckpt_path=last")
    second = run(project, *FIT, *WHOLE, *again)
    assert second.status == 0, second.err
    assert last.is_file()
    check(project, "cut", alone)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ("--trainer.devices=3", "--trainer.strategy.tensor_parallel_size=3"),
            "tensor_parallel_size=3 does not divide num_heads=2; choose a size that does",
        ),
        (
            ("--trainer.devices=3",),
            "tensor_parallel_size=2 does not divide the 3 devices; set trainer.devices",
        ),
        (
            ("--trainer.devices=2", "--trainer.strategy.data_parallel_size=2"),
            "data_parallel_size=2 x tensor_parallel_size=2 is not the 2 devices there are",
        ),
        (
            ("--trainer.devices=2", "--trainer.strategy.tensor_parallel_size=0"),
            "tensor_parallel_size=0 must be at least 1",
        ),
        (
            ("--trainer.devices=2", "--trainer.strategy.process_group_backend=nccl"),
            "process_group_backend='nccl' is for GPUs, and this run is on cpu",
        ),
        (
            ("--trainer.devices=2", "--trainer.accelerator=gpu"),
            "No supported gpu backend found",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(
    project: Path, flags: tuple[str, ...], complaint: str
) -> None:
    config = ("--config", str(STRATEGIES / "fsdp-tp.yaml"))
    result = run(project, *FIT, *config, *CSV, *flags)
    assert complaint in result.complaint
    assert not (project / "runs").exists()


@pytest.mark.parametrize("name", ["ddp", "fsdp", "tensor-parallel", "fsdp-tp"])
def test_a_run_is_named_after_its_own_file(name: str, project: Path) -> None:
    config = ("--config", str(STRATEGIES / f"{name}.yaml"))
    result = run(project, *FIT, *config, *CSV, "--trainer.devices=1", "--trainer.strategy=auto")
    assert result.status == 0, result.err
    assert (project / "runs" / "tiny").is_dir()

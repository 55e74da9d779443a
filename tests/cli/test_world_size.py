"""A run goes on with more processes or fewer: the same rows, and so the same curve."""

from pathlib import Path

import pytest

from tests.command import run, run_process
from tests.run_dir import read_metrics

FLAGS = ("--config=tiny.yaml", "--trainer.logger=[]", "--model.lr_schedule.total_steps=9")
DDP = ("--trainer.devices=2", "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy")
GLOO = ("--trainer.strategy.process_group_backend=gloo",)
TWO = (*DDP, *GLOO, "--data.batch_size=4")
ONE = ("--data.batch_size=8",)
ACCUMULATED = ("--data.batch_size=4", "--trainer.accumulate_grad_batches=2")


def fit(project: Path, run_dir: str, max_steps: int, *flags: str) -> None:
    steps = (f"--trainer.max_steps={max_steps}", f"--run_dir={run_dir}")
    start = run_process if flags[0] in DDP else run
    result = start(project, "fit", *FLAGS, *steps, *flags)
    assert result.status == 0, result.err
    assert "rows come in another order" not in result.err


@pytest.mark.slow
def test_the_curve_does_not_depend_on_the_number_of_processes(project: Path) -> None:
    fit(project, "one", 9, *ONE)
    fit(project, "changed", 3, *TWO)
    fit(project, "changed", 5, *ONE, "--ckpt_path=last")
    fit(project, "changed", 7, *ACCUMULATED, "--trainer.val_check_interval=6", "--ckpt_path=last")
    fit(project, "changed", 9, *TWO, "--ckpt_path=last")
    expected, actual = read_metrics(project / "one"), read_metrics(project / "changed")
    assert [row["step"] for row in actual] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    for name in ("train/loss", "train/grad_norm", "train/lr", "train/tokens", "val/loss"):
        theirs = [row[name] for row in expected]
        assert [row[name] for row in actual] == pytest.approx(theirs, rel=1e-5, nan_ok=True), name
    assert len({row["train/loss"] for row in actual}) == 9

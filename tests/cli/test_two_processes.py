"""Two processes that share the rows of a step are one process with twice the batch."""

from pathlib import Path

import pytest

from tests.command import run_process
from tests.run_dir import only_run, read_metrics

FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps=5", "--trainer.val_check_interval=5")
DDP = ("--trainer.devices=2", "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy")
GLOO = ("--trainer.strategy.process_group_backend=gloo",)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(project: Path) -> None:
    two = run_process(project, *FIT, *DDP, *GLOO, "--data.batch_size=4")
    assert two.status == 0, two.err
    shared = only_run(project)  # the other rank made no folder
    assert sorted(path.name for path in shared.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "wandb",
    ]
    assert two.out.count("done: 5 steps") == 1
    assert "training: 5 steps of 128 tokens" in two.out
    assert "on 2 x cpu" in two.out
    assert two.err.count("step 5/5  train/loss") == 1

    alone = ("--run_dir=alone", "--data.batch_size=8", "--trainer.logger.save_dir=logs")
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    one = run_process(project, *FIT, logger, *alone)
    assert one.status == 0, one.err
    expected, actual = read_metrics(project / "alone"), read_metrics(shared)
    assert [row["step"] for row in actual] == [1, 2, 3, 4, 5]
    for name in ("train/loss", "train/grad_norm", "train/lr", "train/tokens"):
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert actual[-1]["val/loss"] == pytest.approx(expected[-1]["val/loss"], rel=1e-5)

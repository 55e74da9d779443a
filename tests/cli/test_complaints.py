"""Wrong input that ranks find is one line, whoever finds it, and no rank waits for another."""

import os
from pathlib import Path

import pytest
import torch

from lit_gpt_kit.cli.complaints import another_complained, may_complain
from tests.command import run_process
from tests.conftest import REPOSITORY

COMPLAIN = """\
from lightning.pytorch import Callback
from lit_gpt_kit import InputError

class Complain(Callback):
    def __init__(self, ranks: list[int]) -> None:
        self.ranks = ranks

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 2 and trainer.global_rank in self.ranks:
            raise InputError("a row is wrong; mend it")
"""


def test_the_first_to_ask_complains() -> None:
    assert [may_complain(), may_complain()] == [True, True]  # alone, one may always
    assert not another_complained()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        assert not another_complained()
        assert [may_complain(), may_complain()] == [True, False]
        assert another_complained()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["[0,1]", "[1]"])
def test_two_processes_say_it_once(project: Path, ranks: str) -> None:
    (project / "complaining.py").write_text(COMPLAIN)
    paths = os.pathsep.join([str(project), str(REPOSITORY)])
    result = run_process(
        project, "fit", "--config", "tiny.yaml", "--trainer.devices=2", "--trainer.logger=false",
        "--trainer.strategy=ddp", "--trainer.callbacks=complaining.Complain",
        f"--trainer.callbacks.ranks={ranks}", env={"PYTHONPATH": paths},
    )  # fmt: skip
    lines = [line for line in result.err.splitlines() if not line.startswith(("step", "token"))]
    assert lines == ["lit-gpt: a row is wrong; mend it"], result.err
    assert result.status == 2

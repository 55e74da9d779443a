"""A run stopped at any step and continued is, bit for bit, the run that never stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_gpt_kit import TextDataModule
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from tests.tiny import TINY, make_task, make_trainer

STEPS = 13
DROPOUT = replace(TINY, dropout=0.2)

MakeData = Callable[..., TextDataModule]


class StopAfter(Callback):
    """Interrupts the run after a step, once the checkpoint is written."""

    def __init__(self, step: int, checkpoint: LastCheckpoint) -> None:
        self.step, self.checkpoint = step, checkpoint

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        done = (args[3] + 1) % trainer.accumulate_grad_batches == 0
        if done and trainer.global_step == self.step:
            self.checkpoint.save(trainer)
            raise KeyboardInterrupt


def state(module: LightningModule) -> dict[str, torch.Tensor]:
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    moments = module.trainer.optimizers[0].state_dict()["state"]
    for index, values in moments.items():
        weights |= {f"{name} {index}": value.clone() for name, value in values.items()}
    return weights


def run_through(data: TextDataModule, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    task = make_task(DROPOUT)
    make_trainer(folder, STEPS, **options).fit(task, data)
    return state(task)


def run_with_stop(
    make_data: MakeData, folder: Path, stop: int, data_options: dict[str, Any], **options: Any
) -> dict[str, torch.Tensor]:
    checkpoint = LastCheckpoint(folder)
    callbacks = [checkpoint, StopAfter(stop, checkpoint)]
    options = {"enable_checkpointing": True, **options}
    with pytest.raises(SystemExit):
        make_trainer(folder, STEPS, callbacks=callbacks, **options).fit(
            make_task(DROPOUT), make_data(**data_options)
        )
    torch.manual_seed(12345)  # whatever the new process's random numbers are
    task = make_task(DROPOUT)
    trainer = make_trainer(folder, STEPS, **options)
    trainer.fit(task, make_data(**data_options), ckpt_path=folder / "last.ckpt", weights_only=True)
    assert trainer.global_step == STEPS
    return state(task)


@pytest.mark.parametrize("stop", range(1, STEPS))
@pytest.mark.parametrize(
    ("data_options", "options"),
    [
        pytest.param({}, {"val_check_interval": 5, "check_val_every_n_epoch": None}, id="plain"),
        # 3 x 2 rows a step: an epoch ends in mid-run, several times
        pytest.param({"batch_size": 3}, {"accumulate_grad_batches": 2}, id="accumulation"),
        pytest.param({"batch_size": 70}, {"gradient_clip_val": 0.5}, id="epochs"),
    ],
)
def test_stopped_run_ends_bit_for_bit_alike(
    make_data: MakeData,
    tmp_path: Path,
    stop: int,
    data_options: dict[str, Any],
    options: dict[str, Any],
) -> None:
    expected = run_through(make_data(**data_options), tmp_path / "through", **options)
    actual = run_with_stop(make_data, tmp_path / "stopped", stop, data_options, **options)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


def test_data_order_goes_on_where_it_stopped(make_data: MakeData, tmp_path: Path) -> None:
    class Record(Callback):
        def __init__(self) -> None:
            self.rows: list[torch.Tensor] = []

        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            self.rows.append(args[1]["input_ids"])

    through, before, after = Record(), Record(), Record()
    make_trainer(tmp_path, 6, callbacks=[through]).fit(make_task(), make_data())
    checkpoint = LastCheckpoint(tmp_path)
    callbacks = [before, checkpoint, StopAfter(4, checkpoint)]
    with pytest.raises(SystemExit):
        make_trainer(tmp_path, 6, callbacks=callbacks, enable_checkpointing=True).fit(
            make_task(), make_data()
        )
    make_trainer(tmp_path, 6, callbacks=[after]).fit(
        make_task(), make_data(), ckpt_path=checkpoint.path, weights_only=True
    )
    assert len(before.rows) == 4
    assert torch.equal(torch.stack(through.rows), torch.stack(before.rows + after.rows))

"""Steps far above the level are written down with their rows; others are not."""

import csv
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lit_gpt_kit import LanguageModeling
from lit_gpt_kit.callbacks.loss_spikes import LossSpikes, usual
from tests.command import run, write_project
from tests.run_dir import only_run
from tests.tiny import TINY, make_trainer

STEPS = 40


class Told(LanguageModeling):
    """A task whose losses are given."""

    losses: dict[int, float]

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        nll, num_targets = super().compute_loss(batch)
        told = self.losses.get(
            self.trainer.global_step + 1, 2.0 + self.trainer.global_step % 5 / 50
        )
        return 0 * nll + told * num_targets, num_targets


class Counted(LightningDataModule):
    """Batches of nothing, from the rows 2 i and 2 i + 1 in step i."""

    def train_dataloader(self) -> DataLoader[Any]:
        ids = torch.zeros(2, TINY.block_size, dtype=torch.int64)
        return DataLoader([{"input_ids": ids, "targets": ids}] * STEPS, batch_size=None)  # type: ignore[arg-type]

    def rows_of_step(self, step: int) -> list[int]:
        return [2 * step, 2 * step + 1]


class SaveAfter(Callback):
    """Saves a checkpoint after a step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(
    folder: Path,
    losses: dict[int, float],
    checkpoint: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Trainer, Told]:
    task = Told(type(TINY)(**{**vars(TINY), "vocab_size": 5}))
    task.losses = losses
    settings = {"log_every_n_steps": 10, "max_steps": STEPS, **options}
    trainer = make_trainer(folder, **settings)
    trainer.fit(task, Counted(), **(checkpoint or {}))
    return trainer, task


def written(folder: Path) -> list[dict[str, str]]:
    with (folder / "spikes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_spike_is_written_down_with_its_rows(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"step 33: loss 9.5000 is far above its level 2.04"
    ) as seen:
        fit(tmp_path, {33: 9.5}, callbacks=[LossSpikes()])
    (row,) = written(tmp_path)
    assert (row["step"], row["loss"], row["level"], row["rows"]) == ("33", "9.5", "2.04", "64 65")
    assert float(row["grad_norm"]) == 0.0
    assert sum("far above" in str(warning.message) for warning in seen) == 1


def test_a_curve_without_spikes_leaves_nothing(tmp_path: Path) -> None:
    fit(tmp_path, {3: 9.5}, callbacks=[LossSpikes()])  # of a beginning nobody knows the level
    assert not (tmp_path / "spikes.csv").exists()


def test_what_is_not_finite_is_a_spike_from_the_first_step_on(tmp_path: Path) -> None:
    fit(tmp_path, {2: math.inf, 3: math.nan, 40: math.nan}, callbacks=[LossSpikes()])
    rows = written(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [
        ("2", "inf"), ("3", "nan"), ("40", "nan")]  # fmt: skip
    assert rows[2]["level"] == "2.04"


def test_the_last_steps_are_looked_at_though_none_is_logged(tmp_path: Path) -> None:
    fit(tmp_path, {39: 9.5}, callbacks=[LossSpikes()], log_every_n_steps=1000)
    assert [row["step"] for row in written(tmp_path)] == ["39"]


def test_a_run_that_goes_on_keeps_what_it_does_not_repeat(tmp_path: Path) -> None:
    (tmp_path / "spikes.csv").write_text(
        "step,loss,level,grad_norm,rows\n0,9,2,1,5 6\n30,9,2,1,7 8\n"
    )
    fit(tmp_path, {35: 9.5}, callbacks=[LossSpikes()])
    assert [(row["step"], row["rows"]) for row in written(tmp_path)] == [
        ("0", "5 6"), ("35", "68 69")]  # fmt: skip


@pytest.mark.parametrize("stop", [12, 27, 34])
def test_a_run_that_goes_on_writes_what_the_whole_one_writes(tmp_path: Path, stop: int) -> None:
    """Stopped before there is a level, and twice between two looks, with a spike in between."""
    losses = {9: 9.5, 24: 9.5, 33: 9.5, 36: 2.3}
    fit(tmp_path / "through", losses, callbacks=[LossSpikes()])
    expected = written(tmp_path / "through")
    assert [row["step"] for row in expected] == ["24", "33", "36"]
    saved = SaveAfter(stop, tmp_path / "saved.ckpt")
    # It is killed later than it was saved: what it has written meanwhile is written again.
    fit(tmp_path / "stopped", losses, callbacks=[LossSpikes(), saved], max_steps=38)
    checkpoint = {"ckpt_path": saved.path, "weights_only": True}
    fit(tmp_path / "stopped", losses, checkpoint, callbacks=[LossSpikes()])
    assert written(tmp_path / "stopped") == expected


def test_the_level_is_a_median_that_no_spike_moves() -> None:
    rng = random.Random(0)
    losses = [rng.gauss(3.0, 0.1) for _ in range(2001)]
    level, highest = usual(losses, 6.0)
    assert level == float(np.median(losses))
    # Of normal numbers the spread is their standard deviation.
    assert (highest - level) / 6 == pytest.approx(float(np.std(losses)), rel=0.05)
    losses[:300] = [100.0] * 300
    assert usual(losses, 6.0)[0] == pytest.approx(3.0, abs=0.05)


def test_too_few_losses_or_a_smooth_curve_give_no_spike() -> None:
    assert usual([2.0] * 19, 6.0) == (2.0, math.inf)
    assert usual([2.0] * 20, 6.0) == (2.0, pytest.approx(2.12))


def test_fit_keeps_a_log_of_spikes(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    # A rate that throws the weights far away makes one.
    result = run(project, "fit", "--config", "tiny.yaml", "--model.optimizer.lr=1e30",
                 "--trainer.max_steps=3", "--trainer.logger=false")  # fmt: skip
    assert result.status == 0, result.err
    rows = written(only_run(project))
    assert rows[0]["loss"] in ("inf", "nan")
    assert len(rows[0]["rows"].split()) == 4

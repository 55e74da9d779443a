"""metrics.csv: a row a step, whole at any time, and continued by the next run."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from lit_gpt_kit import GPTConfig
from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from tests.tiny import make_task, make_trainer

FIVE_STEPS = "step,train/loss\n1,5\n2,4\n3,3\n4,2\n5,1\n"


def read(folder: Path) -> list[dict[str, str]]:
    """The rows, without their empty cells."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_steps_count_from_one(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 2.5}, step=0)
    logger.log_metrics({"train/loss": 1.25}, step=9)
    assert lines(tmp_path) == ["step,train/loss", "1,2.5", "10,1.25"]


def test_metrics_of_a_step_stand_in_one_row(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 2.0, "train/lr": 0.1}, step=0)
    logger.log_metrics({"train/loss": 1.0, "train/lr": 0.2}, step=1)
    logger.log_metrics({"val/loss": 3.0}, step=1)
    logger.log_metrics({"train/loss": 0.5, "train/lr": 0.3}, step=2)
    assert lines(tmp_path) == [
        "step,train/loss,train/lr,val/loss",
        "1,2,0.1,",
        "2,1,0.2,3",
        "3,0.5,0.3,",
    ]


def test_a_value_logged_again_replaces_the_first(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0, "b": 2.0}, step=0)
    logger.log_metrics({"a": 3.0}, step=0)
    assert read(tmp_path) == [{"step": "1", "a": "3", "b": "2"}]


def test_new_columns_come_last(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.log_metrics({"val/perplexity": 8.0, "val/loss": 2.0}, step=1)
    logger.log_metrics({"a/first": 0.0, "train/loss": 3.0}, step=2)
    assert lines(tmp_path) == [
        "step,train/loss,val/loss,val/perplexity,a/first",
        "1,1,,,",
        "2,,2,8,",
        "3,3,,,0",
    ]


def test_lightnings_epoch_is_no_metric(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).log_metrics({"a": 1.0, "epoch": 3}, step=0)
    assert lines(tmp_path) == ["step,a", "1,1"]


def test_what_is_logged_before_training_is_step_zero(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).log_metrics({"a": 1.0})
    assert read(tmp_path) == [{"step": "0", "a": "1"}]


def test_numbers_keep_float32s_digits(tmp_path: Path) -> None:
    values = {"a": 1 / 3, "b": 1.5e-9, "c": 123456789.0, "d": float("inf"), "e": float("nan")}
    MetricsCSV(tmp_path).log_metrics(values, step=0)
    assert lines(tmp_path)[1] == "1,0.3333333,1.5e-09,1.234568e+08,inf,nan"


def test_folders_are_made(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "runs" / "one")
    logger.log_hyperparams({"lr": 0.1})
    assert not logger.path.exists()
    logger.log_metrics({"a": 1.0}, step=0)
    assert logger.path.exists()
    assert [path.name for path in logger.path.parent.iterdir()] == ["metrics.csv"]
    # Lightning's own checkpoints go to save_dir/name/version/checkpoints
    assert (logger.name, logger.version) == ("", "")
    assert logger.save_dir == str(tmp_path / "runs" / "one")


def test_plain_rows_are_appended(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.path.write_text("step,a\n1,marked\n")
    logger.log_metrics({"a": 2.0}, step=1)
    logger.log_metrics({"a": 3.0}, step=2)
    assert lines(tmp_path) == ["step,a", "1,marked", "2,2", "3,3"]
    logger.log_metrics({"b": 4.0}, step=2)
    assert lines(tmp_path) == ["step,a,b", "1,1,", "2,2,", "3,3,4"]


def test_rows_with_empty_cells_are_appended_too(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0, "b": 1.0}, step=0)
    logger.path.write_text("step,a,b\n1,marked,1\n")
    logger.log_metrics({"b": 2.0}, step=1)
    assert lines(tmp_path) == ["step,a,b", "1,marked,1", "2,,2"]


def test_a_continued_run_keeps_earlier_rows_and_replaces_repeated_steps(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(FIVE_STEPS)
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 2.5}, step=3)  # continued from the checkpoint of step 3
    assert lines(tmp_path) == ["step,train/loss", "1,5", "2,4", "3,3", "4,2.5"]
    logger.log_metrics({"train/loss": 1.5}, step=4)
    logger.log_metrics({"val/loss": 6.0}, step=5)
    assert lines(tmp_path) == [
        "step,train/loss,val/loss",
        *("1,5,", "2,4,", "3,3,", "4,2.5,", "5,1.5,", "6,,6"),
    ]


def test_the_row_of_the_checkpoint_is_kept_and_added_to(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(FIVE_STEPS)
    logger = MetricsCSV(tmp_path)
    logger.go_on_after(3)
    logger.log_metrics({"val/loss": 6.0}, step=2)  # a validation that is repeated
    assert lines(tmp_path) == ["step,train/loss,val/loss", "1,5,", "2,4,", "3,3,6"]


def test_what_is_logged_twice_is_written_once(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0, "b": 2.0}, step=0)
    before = (tmp_path / "metrics.csv").stat().st_ino
    logger.log_metrics({"a": 1.0, "b": 2.0}, step=0)
    logger.log_metrics({"b": 2.0}, step=0)
    assert lines(tmp_path) == ["step,a,b", "1,1,2"]
    assert (tmp_path / "metrics.csv").stat().st_ino == before  # nor written anew
    logger.log_metrics({"b": 3.0}, step=0)
    assert lines(tmp_path) == ["step,a,b", "1,1,3"]


def test_nothing_is_lost_before_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(FIVE_STEPS)
    MetricsCSV(tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == FIVE_STEPS


@pytest.mark.parametrize("lost", range(1, len("50,0.125,7\n") + 1))
def test_a_line_cut_off_in_the_middle_is_left_out(tmp_path: Path, lost: int) -> None:
    whole = "step,a,b\n10,0.5,6\n20,0.25,\n50,0.125,7\n"
    (tmp_path / "metrics.csv").write_text(whole[:-lost])
    MetricsCSV(tmp_path).log_metrics({"a": 0.0}, step=59)
    assert lines(tmp_path) == ["step,a,b", "10,0.5,6", "20,0.25,", "60,0,"]


@pytest.mark.parametrize("broken", ["30,0.1", "30", "x,1,2", "\0\0\0\0", "3\0,1,2"])
def test_a_broken_line_is_left_out(tmp_path: Path, broken: str) -> None:
    (tmp_path / "metrics.csv").write_text(f"step,a,b\n10,0.5,6\n{broken}\n40,0.25,5\n")
    MetricsCSV(tmp_path).log_metrics({"a": 0.0}, step=49)
    assert lines(tmp_path) == ["step,a,b", "10,0.5,6", "40,0.25,5", "50,0,"]


def test_an_empty_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").touch()
    MetricsCSV(tmp_path).log_metrics({"a": 1.0}, step=0)
    assert lines(tmp_path) == ["step,a", "1,1"]


def test_names_may_hold_commas_and_quotes(tmp_path: Path) -> None:
    metrics = {'recall, "sci,space"': 0.5}
    MetricsCSV(tmp_path).log_metrics(metrics, step=0)
    MetricsCSV(tmp_path).log_metrics(metrics, step=1)
    assert read(tmp_path) == [{"step": str(n), 'recall, "sci,space"': "0.5"} for n in (1, 2)]


def test_a_run_fills_one_row_a_step(tmp_path: Path) -> None:
    logger: Logger = MetricsCSV(tmp_path)
    ids = torch.randint(17, (2, 8), generator=torch.Generator().manual_seed(0))
    batches = DataLoader([{"input_ids": ids, "targets": ids}] * 6, batch_size=None)
    task = make_task(GPTConfig(17, num_layers=1, num_heads=2, embed_dim=8, block_size=8))
    trainer = make_trainer(tmp_path, 6, logger=logger, log_every_n_steps=2, val_check_interval=3)
    trainer.fit(task, batches, batches)
    rows = {int(row.pop("step")): row for row in read(tmp_path)}
    assert list(rows) == [2, 3, 4, 6]
    train = {"train/loss", "train/lr", "train/grad_norm", "train/tokens"}
    val = {"val/loss", "val/perplexity"}
    assert [set(row) for row in rows.values()] == [train, val, train, train | val]
    assert float(rows[6]["val/loss"]) == pytest.approx(
        float(trainer.callback_metrics["val/loss"]), rel=1e-6
    )
    assert float(rows[6]["train/loss"]) < float(rows[2]["train/loss"])

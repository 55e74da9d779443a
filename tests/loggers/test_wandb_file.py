"""The end of a .wandb file, as W&B's own service wrote it."""

import shutil
from pathlib import Path

import pytest
import wandb

from lit_gpt_kit.loggers import wandb_file
from lit_gpt_kit.loggers.wandb_file import STEP, LastRows, read_last_rows, read_records
from tests.wandb_file import offline_runs


@pytest.mark.usefixtures("fresh_wandb")
def test_last_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = wandb.init(dir=tmp_path, id="one", settings=wandb.Settings(silent=True))
    for step in range(1, 400):
        run.log({"train/loss": 1.0, STEP: step, "text": "long " * 60})
    run.log({"val/loss": 1.0, STEP: 399})
    run.finish()
    (path,) = (part.path for part in offline_runs(tmp_path))
    assert path.stat().st_size > 4 * wandb_file.BLOCK_LENGTH
    names = {"train/loss", "val/loss", STEP, "text", "_step", "_timestamp", "_runtime"}
    expected = LastRows(399, frozenset(names), 399)
    for tail in (2**20, 1):  # one that holds all, and one that begins within a record
        monkeypatch.setattr(wandb_file, "TAIL_BYTES", tail)
        assert read_last_rows(tmp_path / "wandb", "one") == expected
    assert read_last_rows(tmp_path / "wandb", "two") == LastRows()
    # A part that was online before it.
    earlier = tmp_path / "wandb" / "run-20200101_000000-one"
    earlier.mkdir()
    (earlier / path.name).write_bytes(path.read_bytes()[: 2 * wandb_file.BLOCK_LENGTH])
    assert read_last_rows(tmp_path / "wandb", "one") == expected
    shutil.rmtree(earlier)
    # What a crash leaves: a record without its end, or no record at all.
    num_records = len(list(read_records(path)))
    path.write_bytes(path.read_bytes()[:-3])
    assert len(list(read_records(path))) == num_records - 1
    path.write_bytes(b"")
    assert read_last_rows(tmp_path / "wandb", "one") == LastRows()


@pytest.mark.usefixtures("fresh_wandb")
def test_parts_of_one_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = property(lambda settings: "20200101_000000")
    monkeypatch.setattr(wandb.Settings, "timespec", time)
    for part in range(12):  # W&B calls them …-one, …-one-1, and so on; -11 sorts before -2
        run = wandb.init(dir=tmp_path, id="one", settings=wandb.Settings(silent=True))
        run.log({STEP: part + 1}, step=part)
        run.finish()
    folders = [part.path.parent.name for part in offline_runs(tmp_path)]
    endings = ("", *(f"-{number}" for number in range(1, 12)))
    assert folders == sorted(f"offline-run-20200101_000000-one{ending}" for ending in endings)
    found = read_last_rows(tmp_path / "wandb", "one")
    assert (found.step, found.wandb_step) == (12, 11)

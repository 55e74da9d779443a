"""PredictionWriter: what predict returns, a row a line."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from lit_gpt_kit import GPTConfig, InputError
from lit_gpt_kit.callbacks.prediction_writer import PredictionWriter
from tests.tiny import make_task, make_trainer

CONFIG = GPTConfig(17, num_layers=1, num_heads=2, embed_dim=8, block_size=8)
COLUMNS = ["input_ids", "targets", "log_probs", "top_ids", "top_log_probs"]


def predict(folder: Path, writer: PredictionWriter) -> list[dict[str, torch.Tensor]]:
    """Predictions of two batches, of three rows and of one."""
    ids = torch.randint(17, (4, 8), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": part, "targets": part.roll(-1)} for part in (ids[:3], ids[3:])]
    trainer = make_trainer(folder, 1, callbacks=[writer])
    out: Any = trainer.predict(make_task(CONFIG), DataLoader(batches, batch_size=None))
    return out


def test_rows_are_those_that_predict_returns(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "new" / "predictions.jsonl")
    predictions = predict(tmp_path, writer)
    rows = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert len(rows) == writer.num_rows == 4
    assert [list(row) for row in rows] == [COLUMNS] * 4
    for name in COLUMNS:
        expected = torch.cat([prediction[name] for prediction in predictions])
        actual = torch.tensor([row[name] for row in rows])
        assert actual.shape == expected.shape
        assert torch.equal(actual, expected)


def test_an_older_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("an older run's\n")
    predict(tmp_path, PredictionWriter(str(path)))
    assert len(path.read_text().splitlines()) == 4
    assert "older" not in path.read_text()


@pytest.mark.parametrize(("rank", "name"), [(0, "out.jsonl"), (3, "out-3.jsonl")])
def test_each_rank_has_a_file(tmp_path: Path, rank: int, name: str) -> None:
    agreed = tmp_path / "out.jsonl"
    strategy = SimpleNamespace(broadcast=lambda path: agreed)  # the first rank's path
    writer = PredictionWriter(tmp_path / "another second" / "out.jsonl")
    trainer = SimpleNamespace(global_rank=rank, world_size=4, strategy=strategy)
    writer.setup(trainer, None, "predict")
    writer.write_on_batch_end(trainer, None, {"a": torch.tensor([1, 2])}, None, None, 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    names = ["out.jsonl", "out-1.jsonl", "out-2.jsonl", "out-3.jsonl"]
    assert [path.name for path in writer.paths] == names  # which are said
    assert (tmp_path / name).read_text() == '{"a": 1}\n{"a": 2}\n'


def test_training_writes_nothing(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out.jsonl")
    writer.setup(SimpleNamespace(global_rank=0), None, "fit")
    assert not writer.path.exists()


# ---- numbered rows ----


class Labels(LightningModule):
    """Returns what stands in the batch, as a classifier does."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        return batch


def batch_of(*numbers: int) -> dict[str, Any]:
    return {
        "row": torch.tensor(numbers),
        "text": [f'say "{number}", är;\n' for number in numbers],
        "label": [["a", "b"][: number % 3] for number in numbers],
        "probabilities": [{"a": number / 8, "b": 0.5} for number in numbers],
    }


def classify(path: Path, *batches: dict[str, Any], **options: Any) -> PredictionWriter:
    writer = PredictionWriter(path)
    trainer = make_trainer(path.parent, 1, callbacks=[writer], **options)
    loader = DataLoader(list(batches), batch_size=None)
    trainer.predict(Labels(), loader, return_predictions=False)
    return writer


BATCHES = batch_of(5, 0, 3), batch_of(1, -1, 4), batch_of(2, -1)


def test_numbered_rows_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    writer = classify(tmp_path / "out.jsonl", *BATCHES)
    lines = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert writer.num_rows == 6
    expected = batch_of(*range(6))
    for name in ("text", "label", "probabilities"):
        assert [line[name] for line in lines] == expected[name]


def test_numbered_rows_as_a_table(tmp_path: Path) -> None:
    writer = classify(tmp_path / "out.csv", *BATCHES)
    with writer.path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["row", "text", "label", "probabilities.a", "probabilities.b"]
    assert [line["row"] for line in lines] == list("012345")
    assert [line["text"] for line in lines] == batch_of(*range(6))["text"]
    assert [line["label"] for line in lines] == ["", "a", "a;b"] * 2
    assert [float(line["probabilities.a"]) for line in lines] == [n / 8 for n in range(6)]


def test_rows_as_they_come_as_a_table(tmp_path: Path) -> None:
    parts = [{k: v for k, v in batch.items() if k != "row"} for batch in BATCHES]
    writer = classify(tmp_path / "out.csv", *parts)
    with writer.path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))  # one header alone
    assert [line["text"] for line in lines] == batch_of(5, 0, 3, 1, -1, 4, 2, -1)["text"]


def test_a_numbered_row_waits_for_those_before_it_alone(tmp_path: Path) -> None:
    """So that rows in order, as those of text, take no memory; and the file appears when whole."""
    waiting: list[list[int]] = []

    class Look(PredictionWriter):
        def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_predict_batch_end(*args, **kwargs)
            waiting.append(sorted(self._numbered))
            assert not self.path.exists()

    writer = Look(tmp_path / "out.jsonl")
    trainer = make_trainer(tmp_path, 1, callbacks=[writer])
    batches = [batch_of(0, 1), batch_of(2, 4), batch_of(3, -1), batch_of(7, 5)]
    trainer.predict(Labels(), DataLoader(batches, batch_size=None), return_predictions=False)
    assert waiting == [[], [4], [], [7]]
    rows = [json.loads(line)["row"] for line in writer.path.read_text().splitlines()]
    assert rows == [0, 1, 2, 3, 4, 5, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_ranks_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ranks, each with its share of the rows."""
    shares: list[dict[int, dict[str, Any]]] = []
    writers = []
    for rank, numbers in enumerate([(4, 0, -1), (1, 3, 2)]):
        writer = PredictionWriter(tmp_path / "out.jsonl")
        strategy = SimpleNamespace(broadcast=lambda path: path)
        trainer: Any = SimpleNamespace(
            global_rank=rank, world_size=2, is_global_zero=rank == 0, strategy=strategy
        )
        writer.setup(trainer, Labels(), "predict")
        writer.write_on_batch_end(trainer, Labels(), batch_of(*numbers), None, None, 0, 0)
        shares.append(writer._numbered)
        writers.append((writer, trainer))

    def gather(into: list[Any], own: Any) -> None:
        into[:] = shares

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    for writer, trainer in writers:
        writer.on_predict_epoch_end(trainer, Labels())
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [0, 1, 2, 3, 4]


def test_older_predictions_stay_until_there_are_newer_ones(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("older\n")

    class Broken(Labels):
        def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
            raise ZeroDivisionError

    trainer = make_trainer(tmp_path, 1, callbacks=[PredictionWriter(path)])
    with pytest.raises(ZeroDivisionError):
        trainer.predict(Broken(), DataLoader(list(BATCHES), batch_size=None))
    assert path.read_text() == "older\n"
    classify(path, *BATCHES)
    assert "older" not in path.read_text()


# ---- wrong input ----


@pytest.mark.parametrize("name", ["out.txt", "out", "out.json"])
def test_unknown_format(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is of no format to write .* use .jsonl or .csv"):
        PredictionWriter(name)


def test_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(InputError, match=r"out.csv is a folder; name a file"):
        classify(tmp_path / "out.csv", *BATCHES)


def test_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    writer = PredictionWriter(tmp_path / "out" / "x.csv")
    trainer = make_trainer(tmp_path, 1, callbacks=[writer])
    with pytest.raises(InputError, match=r"x.csv cannot be written: .*out is a file"):
        trainer.predict(Labels(), DataLoader(list(BATCHES), batch_size=None))


def test_tokens_are_no_cells(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'top_ids' of a row is no cell of a table; write .jsonl"):
        predict(tmp_path, PredictionWriter(tmp_path / "out.csv"))

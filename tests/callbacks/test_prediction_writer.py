"""PredictionWriter: what predict returns, a JSON object a row."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lit_gpt_kit import GPTConfig
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
    trainer = SimpleNamespace(global_rank=rank, strategy=strategy)
    writer.setup(trainer, None, "predict")
    writer.write_on_batch_end(trainer, None, {"a": torch.tensor([1, 2])}, None, None, 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"a": 1}\n{"a": 2}\n'


def test_training_writes_nothing(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out.jsonl")
    writer.setup(SimpleNamespace(global_rank=0), None, "fit")
    assert not writer.path.exists()

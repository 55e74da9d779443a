"""A tiny corpus of real words, rows with labels, pretrained models, and data modules on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_gpt_kit import ClassificationDataModule, TextDataModule, TokenizerConfig
from tests.transformers_models import build, save


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "poem.txt"
    words = "the quick brown fox jumps over the lazy dog and runs away from it\n"
    path.write_text("".join(words[i % 7 :] for i in range(40)))
    return path


@pytest.fixture
def make_data(corpus: Path, tmp_path: Path) -> Callable[..., TextDataModule]:
    def make(**options: Any) -> TextDataModule:
        settings: dict[str, Any] = {
            "sources": [str(corpus)],
            "tokenizer": TokenizerConfig("byte"),
            "batch_size": 4,
            "cache_dir": str(tmp_path / "cache"),
        }
        return TextDataModule(**{**settings, **options})

    return make


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model: a Hugging Face folder with a byte tokenizer and an untied head."""
    return save(build("llama", "multi-head"), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, whose head is its embedding."""
    return save(build("llama", "grouped"), tmp_path_factory.mktemp("tied"))


LABELS = ("cat", "dog", "eel")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Forty rows of unequal length, about half of them of one label."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {
            "text": f"{'cdce'[i % 4]} {'x' * (i * 7 % 23)} no. {i}",
            "label": LABELS[[0, 1, 0, 2][i % 4]],
        }
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make_rows(labelled: Path, tmp_path: Path) -> Callable[..., ClassificationDataModule]:
    def make(**options: Any) -> ClassificationDataModule:
        settings: dict[str, Any] = {
            "sources": [str(labelled)],
            "batch_size": 4,
            "val_fraction": 0.2,
            "cache_dir": str(tmp_path / "cache"),
        }
        return ClassificationDataModule(**{**settings, **options})

    return make

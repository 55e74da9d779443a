"""A tiny corpus of real words, and a data module on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_gpt_kit import TextDataModule, TokenizerConfig


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

"""A tiny run by a real Trainer, and checkpoints of any network without one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lit_gpt_kit import GPT, GPTConfig, LanguageModeling, TextDataModule, TokenizerConfig
from lit_gpt_kit.checkpoints.native import NETWORK_PREFIX, describe_into
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import train_tokenizer
from tests.tiny import make_task, make_trainer

TEXT = "the quick brown fox jumps over the lazy dog and runs away from it\n"


class Run(NamedTuple):
    """What a training run leaves behind."""

    folder: Path
    checkpoint: Path
    task: LanguageModeling


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose corpus and caches are gone: only the run folder is left."""
    folder, corpus = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("corpus")
    text = corpus / "poem.txt"
    text.write_text(TEXT * 30)
    data = TextDataModule(
        sources=[str(text)],
        tokenizer=TokenizerConfig("bpe", vocab_size=270),
        batch_size=4,
        cache_dir=str(corpus / "cache"),
    )
    task = make_task()
    trainer = make_trainer(folder, max_steps=3)
    trainer.fit(task, data)
    checkpoint = folder / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(checkpoint)
    corpus.rename(corpus.with_name("gone"))
    return Run(folder, checkpoint, task.eval())


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return train_tokenizer(TokenizerConfig("byte"), [])


@pytest.fixture
def save_network(tmp_path: Path, byte_tokenizer: Tokenizer) -> Callable[..., tuple[Path, GPT]]:
    """Saves a network of random weights as a task does; returns the file and the network."""

    def save(tokenizer: Tokenizer | None = byte_tokenizer, **changes: Any) -> tuple[Path, GPT]:
        shape = {"vocab_size": 257, "block_size": 16, "num_layers": 2, "num_heads": 2}
        model = GPT(GPTConfig(**(shape | {"embed_dim": 16} | changes))).eval()
        weights = {NETWORK_PREFIX + name: tensor for name, tensor in model.state_dict().items()}
        checkpoint: dict[str, Any] = {"state_dict": weights}
        describe_into(checkpoint, model.config, tokenizer)
        path = tmp_path / "network.ckpt"
        torch.save(checkpoint, path)
        return path, model

    return save

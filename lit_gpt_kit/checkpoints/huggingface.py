"""A Hugging Face folder: config.json, safetensors, tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch

from lit_gpt_kit.checkpoints.foreign import build_model
from lit_gpt_kit.checkpoints.safetensors_folder import SafetensorsFolder
from lit_gpt_kit.checkpoints.words import Words
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"


def is_folder(path: Path) -> bool:
    """A Hugging Face folder, by its config.json."""
    return (path / CONFIG_FILE).is_file()


def load_folder(
    folder: Path, dtype: torch.dtype, device: torch.device | str
) -> tuple[GPT, Tokenizer]:
    """The network and the tokenizer of a folder.

    Raises:
        MissingFileError: weights or a shard are not there.
        InputError: the model is not supported, is damaged, or its parts do not fit together.
    """
    words = read_words(folder)
    tokenizer = Tokenizer.from_file(folder)
    check_vocabulary(words.get("vocab_size"), tokenizer, str(folder))
    return build_model(words, SafetensorsFolder(folder), str(folder), dtype, device), tokenizer


def read_words(folder: Path) -> Words:
    """The folder's config.json, its end tokens those of generation_config.json where it has any."""
    words = read_json(folder / CONFIG_FILE)
    if (folder / GENERATION_FILE).is_file():
        said = read_json(folder / GENERATION_FILE).get("eos_token_id")
        if said is not None:
            words["eos_token_id"] = said
    return words


def check_vocabulary(vocab_size: Any, tokenizer: Tokenizer, name: str) -> None:
    """More rows of the embedding than tokens are usual padding; fewer are a mistake.

    Raises:
        InputError: the tokenizer has more tokens than the embedding has rows.
    """
    if isinstance(vocab_size, int) and vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"{name}: vocab_size={vocab_size} is smaller than its tokenizer's "
            f"{tokenizer.vocab_size} tokens; the two do not belong together"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is no JSON, or no object.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a JSON object")
    return values

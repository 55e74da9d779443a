"""Our GPT as a Hugging Face folder, which transformers loads with no code of ours."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lit_gpt_kit.checkpoints.families import FAMILIES
from lit_gpt_kit.checkpoints.huggingface import CONFIG_FILE, GENERATION_FILE
from lit_gpt_kit.checkpoints.safetensors_folder import INDEX, SINGLE
from lit_gpt_kit.checkpoints.tensor_map import Slot, map_tensors
from lit_gpt_kit.checkpoints.translation import (
    added_biases,
    nearest_config,
    obstacles,
    write_words,
)
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import new_folder, says_when_full
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import lora_layers
from lit_gpt_kit.tokenization.settings import SETTINGS_FILE
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
SHARD_BYTES = 5 * 10**9
"""A file holds at most this much, unless one tensor alone is larger."""


def find_family(config: GPTConfig) -> str:
    """The model_type of the first family that can hold the network, best without added biases.

    Raises:
        InputError: none can; says which options stand in the way of the nearest one.
    """
    found = {model_type: obstacles(model_type, config) for model_type in FAMILIES}
    nearest = min(found, key=lambda name: (len(found[name]), len(added_biases(name, config))))
    if found[nearest]:
        raise InputError(
            "no architecture of Hugging Face that is known here can hold this network; nearest is "
            f"{nearest}, in whose way stands {', '.join(found[nearest])}"
        )
    return nearest


def export_folder(
    model: GPT, tokenizer: Tokenizer, folder: Path, shard_bytes: int = SHARD_BYTES
) -> str:
    """Write a network as a Hugging Face folder, which appears whole or not at all.

    Args:
        model: the network.
        tokenizer: its tokenizer.
        folder: where to; it must not exist, or be empty.
        shard_bytes: most bytes of weights in a file.

    Returns:
        The model_type of the family that was chosen.

    Raises:
        InputError: the folder is not empty, no family can hold the network, or the disk is full.
    """
    with new_folder(folder) as place, says_when_full(folder):
        return write_folder(model, tokenizer, place, shard_bytes)


@torch.no_grad()
def write_folder(
    model: GPT, tokenizer: Tokenizer, folder: Path, shard_bytes: int = SHARD_BYTES
) -> str:
    """The same into an empty folder that is there, file by file.

    Raises:
        InputError: no family can hold the network, or it has adapters.
        OSError: the disk is full.
    """
    if lora_layers(model):
        raise InputError(
            "the network has LoRA beside its layers; merge it first: merge_lora(model)"
        )
    model_type = find_family(model.config)
    write_words_and_tokenizer(model, tokenizer, folder, model_type)
    _write_weights(folder, _all_slots(model_type, model), shard_bytes)
    return model_type


def write_words_and_tokenizer(
    model: GPT, tokenizer: Tokenizer, folder: Path, model_type: str
) -> None:
    """Write all that a Hugging Face folder holds beside the weights."""
    words = write_words(model_type, model.config)
    words["dtype"] = str(model.token_embedding.weight.dtype).removeprefix("torch.")
    if tokenizer.begin_token is not None:
        words["bos_token_id"] = tokenizer.backend.token_to_id(tokenizer.begin_token)
    _write_json(folder / CONFIG_FILE, words)
    ends = {"eos_token_id": words["eos_token_id"], "bos_token_id": words["bos_token_id"]}
    _write_json(folder / GENERATION_FILE, {k: v for k, v in ends.items() if v is not None})
    write_tokenizer(tokenizer, model.config, folder)


def write_tokenizer(tokenizer: Tokenizer, config: GPTConfig, folder: Path) -> None:
    """Write tokenizer.json and what Hugging Face keeps beside it."""
    text = tokenizer.backend.to_str(pretty=True)
    (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.begin_token,
        "eos_token": tokenizer.end_token,
        "chat_template": tokenizer.chat_template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.block_size,
    }
    said = {name: value for name, value in settings.items() if value is not None}
    _write_json(folder / SETTINGS_FILE, said)


def _all_slots(model_type: str, model: GPT) -> dict[str, Slot]:
    """Every tensor of the family's checkpoint; biases that the network lacks are zeros."""
    family = FAMILIES[model_type]
    slots = map_tensors(family, model)
    if not added_biases(model_type, model.config):
        return slots
    with torch.device("meta"):
        held = GPT(nearest_config(model_type, model.config), initialize=False)
    like = model.token_embedding.weight
    return {
        name: slots[name] if name in slots else Slot((like.new_zeros(slot.shape),), len(slot.shape))
        for name, slot in map_tensors(family, held).items()
    }


def _write_weights(folder: Path, slots: dict[str, Slot], shard_bytes: int) -> None:
    shards = list(_fill_shards(slots, shard_bytes))
    names = [SINGLE]
    if len(shards) > 1:
        count = len(shards)
        names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        places = {key: file for file, keys in zip(names, shards, strict=True) for key in keys}
        total = sum(_num_bytes(slot) for slot in slots.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    for file, keys in zip(names, shards, strict=True):
        # Tensors of our own memory: the library refuses those that share it.
        tensors = {key: slots[key].read().cpu().clone() for key in keys}
        save_tensors(tensors, folder / file, folder / CONFIG_FILE)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, like: Path) -> None:
    """Write a safetensors file, which the same people may read as the file `like`.

    Raises:
        OSError: the disk is full.
    """
    with _says_as_python_does():
        save_file(tensors, path, metadata={"format": "pt"})
    # The library's own file would be readable by nobody else.
    shutil.copymode(like, path)


def _fill_shards(slots: dict[str, Slot], shard_bytes: int) -> Iterable[list[str]]:
    keys: list[str] = []
    room = shard_bytes
    for key, slot in slots.items():
        if keys and _num_bytes(slot) > room:
            yield keys
            keys, room = [], shard_bytes
        keys.append(key)
        room -= _num_bytes(slot)
    yield keys


def _num_bytes(slot: Slot) -> int:
    return sum(part.nbytes for part in slot.parts)


@contextmanager
def _says_as_python_does() -> Iterator[None]:
    """Older releases of safetensors have an error of their own for a full disk."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"(?:os error|Os { code:) (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), str(error)) from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

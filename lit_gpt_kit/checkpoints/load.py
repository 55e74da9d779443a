"""MODEL, as people name it, to a network and its tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lit_gpt_kit.checkpoints import huggingface
from lit_gpt_kit.checkpoints.adapters import find_model_type, load_adapters
from lit_gpt_kit.checkpoints.export import TOKENIZER_FILE
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.locate import GGUF_SUFFIX, is_adapter, locate
from lit_gpt_kit.checkpoints.native import (
    NETWORK_PREFIX,
    AdapterOrigin,
    Description,
    read_checkpoint,
    read_description,
    read_outline,
)
from lit_gpt_kit.checkpoints.peft_words import read_words
from lit_gpt_kit.checkpoints.translation import read_config
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.linear_kinds import plain_layers
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora, load_trained, lora_layers, merge_lora
from lit_gpt_kit.tokenization.tokenizer import Tokenizer


@plain_layers()
def load_model(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
    without_head: bool = False,
) -> tuple[GPT, Tokenizer]:
    """The network, in eval mode, and its tokenizer; adapters are folded into their base's weights.

    Args:
        name: a run folder (its best checkpoint is taken), a .ckpt, a Hugging Face folder, a .gguf
            file, a folder of adapters, or the name of a model on the Hugging Face hub.
        dtype: of the weights.
        device: where the weights go.
        base: where the base of adapters lies; where they say so themselves by default.
        without_head: take the network of a classifier, too, to train it to something else.

    Raises:
        MissingFileError: there is no such file, folder or model, or no base of the adapters.
        InputError: it is no model, one that is not supported, a damaged one, or a classifier, which
            writes no text; or adapters for another base.
    """
    path = locate(name)
    if path.suffix == GGUF_SUFFIX:
        from lit_gpt_kit.checkpoints.gguf import load_gguf

        return load_gguf(path, dtype, device)
    if huggingface.is_folder(path):
        return huggingface.load_folder(path, dtype, device)
    if is_adapter(path):
        model, tokenizer, _ = _load_peft(path, dtype, device, base)
    else:
        model, tokenizer, _ = _load_own(path, dtype, device, base, without_head)
    return merge_lora(model).eval(), tokenizer


@plain_layers()
def load_adapted(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
) -> tuple[GPT, Tokenizer, AdapterOrigin]:
    """A network with its adapters beside its layers, in eval mode, its tokenizer, and its base.

    Args:
        name: a folder of adapters, or a run folder or .ckpt that holds adapters alone.
        dtype: of the frozen weights.
        device: where the weights go.
        base: as in `load_model`.

    Raises:
        MissingFileError: there is no such file or folder, or no base of the adapters.
        InputError: it holds no adapters, or as in `load_model`.
    """
    path = locate(name)
    if path.suffix != GGUF_SUFFIX and not huggingface.is_folder(path):
        load = _load_peft if is_adapter(path) else _load_own
        model, tokenizer, origin = load(path, dtype, device, base)
        if origin is not None:
            # The hash takes as long as reading the weights, and loading alone has no use for it.
            sha256 = origin.base_sha256 or fingerprint_weights(origin.base)
            return model.eval(), tokenizer, replace(origin, base_sha256=sha256)
    raise InputError(f"{path} holds a whole model, and no adapters")


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer of a model, as `load_model` takes its name, without its weights.

    Raises:
        MissingFileError: there is no such file, folder or model.
        InputError: it is no model, or one without a tokenizer.
    """
    path = locate(name)
    if path.suffix == GGUF_SUFFIX:
        from lit_gpt_kit.checkpoints.gguf import GGUFFile

        return GGUFFile(path).tokenizer()
    if huggingface.is_folder(path) or (path / TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(path)
    if is_adapter(path):
        return load_tokenizer(_base_of(path, read_words(path).base, None))
    return _need_tokenizer(read_description(read_outline(path), str(path)).tokenizer, path)


def load_config(name: str | Path) -> GPTConfig:
    """The configuration of a model, as `load_model` takes its name, without its weights.

    Raises:
        MissingFileError: there is no such file, folder or model.
        InputError: it is no model, or one that is not supported.
    """
    path = locate(name)
    if path.suffix == GGUF_SUFFIX:
        from lit_gpt_kit.checkpoints.gguf import GGUFFile

        return read_config(GGUFFile(path).words, str(path))[1]
    if huggingface.is_folder(path):
        return read_config(huggingface.read_words(path), str(path))[1]
    if is_adapter(path):
        return load_config(_base_of(path, read_words(path).base, None))
    return read_description(read_outline(path), str(path)).config


def describe_own(checkpoint: dict[str, Any], path: Path, without_head: bool = False) -> Description:
    """What one of our checkpoints says of its network, when it is to be used as a model.

    Raises:
        InputError: it has no tokenizer, one that does not fit, or the head of a classifier.
    """
    description = read_description(checkpoint, str(path))
    labels = checkpoint.get("hyper_parameters", {}).get("label_names")
    if labels and not without_head:
        raise InputError(
            f"{path} is a classifier ({', '.join(map(str, labels[:5]))}), which writes no text and "
            f"has no place for its head elsewhere; use it with lit-gpt predict --ckpt_path {path}"
        )
    tokenizer = _need_tokenizer(description.tokenizer, path)
    huggingface.check_vocabulary(description.config.vocab_size, tokenizer, str(path))
    return description


def _load_own(
    path: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    base: str | Path | None,
    without_head: bool = False,
) -> tuple[GPT, Tokenizer, AdapterOrigin | None]:
    checkpoint = read_checkpoint(path)
    description = describe_own(checkpoint, path, without_head)
    tokenizer = _need_tokenizer(description.tokenizer, path)
    weights = saved = {
        key.removeprefix(NETWORK_PREFIX): tensor
        for key, tensor in checkpoint["state_dict"].items()
        if key.startswith(NETWORK_PREFIX)
    }
    origin = description.adapter
    if origin is not None:
        origin = replace(origin, base=_base_of(path, origin.base, base))
        weights = _load_base(path, origin, dtype, device)[0].state_dict()
    with torch.device("meta"):
        model = GPT(description.config, initialize=False)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(f"{path}: weights and configuration do not fit: {reason}") from None
    model.tie_weights()
    model.to(device=device, dtype=dtype)
    if origin is not None:
        try:
            load_trained(apply_lora(model, origin.lora), saved)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return model, tokenizer, origin


def _load_peft(
    path: Path, dtype: torch.dtype, device: torch.device | str, base: str | Path | None
) -> tuple[GPT, Tokenizer, AdapterOrigin]:
    words = read_words(path)
    origin = AdapterOrigin(LoRAConfig(), _base_of(path, words.base, base), words.base_sha256 or "")
    model, tokenizer = _load_base(path, origin, dtype, device)
    if (path / TOKENIZER_FILE).is_file():  # perhaps with another chat template
        tokenizer = Tokenizer.from_file(path)
        huggingface.check_vocabulary(model.config.vocab_size, tokenizer, str(path))
    load_adapters(model, path, find_model_type(origin.base, model.config))
    layer = next(iter(lora_layers(model).values()))
    return model, tokenizer, replace(origin, lora=layer.config)


def _base_of(path: Path, said: str | None, base: str | Path | None) -> str:
    """The MODEL that adapters belong to: where the caller says, or they do."""
    name = said if base is None else str(base)
    if not name:
        raise InputError(f"{path} does not say which model its adapters belong to; {_remedy(path)}")
    _refuse_circle(path, name)
    return name


def _refuse_circle(path: Path, base: str) -> None:
    """Adapters may stand on adapters, but not in a circle."""
    passed = {path.resolve()}
    name: str | None = base
    while name and Path(name).expanduser().is_dir() and is_adapter(Path(name).expanduser()):
        place = Path(name).expanduser()
        if place.resolve() in passed:
            raise InputError(
                f"{path}: its adapters belong to {base}, and that to them again; {_remedy(path)}"
            )
        passed.add(place.resolve())
        name = read_words(place).base


def _load_base(
    path: Path, origin: AdapterOrigin, dtype: torch.dtype, device: torch.device | str
) -> tuple[GPT, Tokenizer]:
    """The network that the adapters at `path` belong to."""
    try:
        place = locate(origin.base)
    except MissingFileError as error:
        raise MissingFileError(
            f"{path} holds adapters alone, and their base is not there: {error}; bring it back, or "
            f"say where it is: {_remedy(path)}"
        ) from None
    if place == path:
        raise InputError(f"{path} names itself as the base of its adapters; {_remedy(path)}")
    found = fingerprint_weights(origin.base) if origin.base_sha256 else ""
    if found != origin.base_sha256:
        raise InputError(
            f"{path} holds adapters for another base: the weights they were trained on have "
            f"sha256 {origin.base_sha256[:12]}..., those of {origin.base} {found[:12]}...; name "
            f"the model they were trained on: {_remedy(path)}"
        )
    return load_model(origin.base, dtype, device, without_head=True)


def _remedy(path: Path) -> str:
    return f"lit-gpt merge {path} FOLDER --base MODEL"


def _need_tokenizer(tokenizer: Tokenizer | None, path: Path) -> Tokenizer:
    if tokenizer is None:
        raise InputError(f"{path} holds no tokenizer, so it cannot read or write text")
    return tokenizer

"""MODEL, as people name it, to a network and its tokenizer."""

from pathlib import Path

import torch

from lit_gpt_kit.checkpoints import huggingface
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.locate import GGUF_SUFFIX, locate
from lit_gpt_kit.checkpoints.native import NETWORK_PREFIX, read_checkpoint, read_description
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import apply_lora, load_trained, merge_lora
from lit_gpt_kit.tokenization.tokenizer import Tokenizer


def load_model(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
) -> tuple[GPT, Tokenizer]:
    """The network, in eval mode, and its tokenizer; adapters are folded into their base's weights.

    Args:
        name: a run folder (its best checkpoint is taken), a .ckpt, a Hugging Face folder, a .gguf
            file, a folder of adapters, or the name of a model on the Hugging Face hub.
        dtype: of the weights.
        device: where the weights go.
        base: where the base of adapters lies; where they say so themselves by default.

    Raises:
        MissingFileError: there is no such file, folder or model, or no base of the adapters.
        InputError: it is no model, one that is not supported, or a damaged one; or adapters for
            another base.
    """
    path = locate(name)
    if path.suffix == GGUF_SUFFIX:
        from lit_gpt_kit.checkpoints.gguf import load_gguf

        return load_gguf(path, dtype, device)
    if huggingface.is_folder(path):
        return huggingface.load_folder(path, dtype, device)
    return _load_own(path, dtype, device, base)


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
    if huggingface.is_folder(path):
        return Tokenizer.from_file(path)
    return _need_tokenizer(read_description(read_checkpoint(path), str(path)).tokenizer, path)


def _load_own(
    path: Path, dtype: torch.dtype, device: torch.device | str, base: str | Path | None
) -> tuple[GPT, Tokenizer]:
    checkpoint = read_checkpoint(path)
    description = read_description(checkpoint, str(path))
    tokenizer = _need_tokenizer(description.tokenizer, path)
    huggingface.check_vocabulary(description.config.vocab_size, tokenizer, str(path))
    weights = saved = {
        key.removeprefix(NETWORK_PREFIX): tensor
        for key, tensor in checkpoint["state_dict"].items()
        if key.startswith(NETWORK_PREFIX)
    }
    origin = description.adapter
    if origin is not None:
        found, _ = _load_base(path, origin.base, origin.base_sha256, dtype, device, base)
        weights = found.state_dict()
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
        merge_lora(model)
    return model.eval(), tokenizer


def _load_base(
    path: Path,
    said: str,
    sha256: str | None,
    dtype: torch.dtype,
    device: torch.device | str,
    base: str | Path | None,
) -> tuple[GPT, Tokenizer]:
    """The network that adapters belong to.

    Args:
        path: the adapters.
        said: where they say that it lies.
        sha256: of its weights, where they say so.
        dtype: of the weights.
        device: where they go.
        base: where it lies instead.
    """
    name = said if base is None else base
    try:
        found = None if sha256 is None else fingerprint_weights(name)
    except MissingFileError as error:
        raise MissingFileError(
            f"{path} holds adapters of {said}, and not that model itself: {error}; bring it back, "
            f"or say where it lies: lit-gpt merge {path} FOLDER --base MODEL"
        ) from None
    if sha256 is not None and found is not None and found != sha256:
        raise InputError(
            f"{path} holds adapters for another base: they were trained on {said}, whose weights "
            f"had sha256 {sha256[:12]}..., and those of {name} have {found[:12]}...; name the "
            f"model they were trained on: lit-gpt merge {path} FOLDER --base MODEL"
        )
    return load_model(name, dtype, device)


def _need_tokenizer(tokenizer: Tokenizer | None, path: Path) -> Tokenizer:
    if tokenizer is None:
        raise InputError(f"{path} holds no tokenizer, so it cannot read or write text")
    return tokenizer

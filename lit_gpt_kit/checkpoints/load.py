"""MODEL, as people name it, to a network and its tokenizer."""

from pathlib import Path

import torch

from lit_gpt_kit.checkpoints import huggingface
from lit_gpt_kit.checkpoints.locate import GGUF_SUFFIX, locate
from lit_gpt_kit.checkpoints.native import NETWORK_PREFIX, read_checkpoint, read_description
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.tokenizer import Tokenizer


def load_model(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[GPT, Tokenizer]:
    """The network, in eval mode, and its tokenizer.

    Args:
        name: a run folder (its best checkpoint is taken), a .ckpt, a Hugging Face folder, a .gguf
            file, or the name of a model on the Hugging Face hub.
        dtype: of the weights.
        device: where the weights go.

    Raises:
        MissingFileError: there is no such file, folder or model.
        InputError: it is no model, one that is not supported, or a damaged one.
    """
    path = locate(name)
    if path.suffix == GGUF_SUFFIX:
        from lit_gpt_kit.checkpoints.gguf import load_gguf

        return load_gguf(path, dtype, device)
    if huggingface.is_folder(path):
        return huggingface.load_folder(path, dtype, device)
    return _load_own(path, dtype, device)


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


def _load_own(path: Path, dtype: torch.dtype, device: torch.device | str) -> tuple[GPT, Tokenizer]:
    checkpoint = read_checkpoint(path)
    description = read_description(checkpoint, str(path))
    tokenizer = _need_tokenizer(description.tokenizer, path)
    huggingface.check_vocabulary(description.config.vocab_size, tokenizer, str(path))
    with torch.device("meta"):
        model = GPT(description.config, initialize=False)
    weights = {
        key.removeprefix(NETWORK_PREFIX): tensor
        for key, tensor in checkpoint["state_dict"].items()
        if key.startswith(NETWORK_PREFIX)
    }
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(f"{path}: weights and configuration do not fit: {reason}") from None
    model.tie_weights()
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _need_tokenizer(tokenizer: Tokenizer | None, path: Path) -> Tokenizer:
    if tokenizer is None:
        raise InputError(f"{path} holds no tokenizer, so it cannot read or write text")
    return tokenizer

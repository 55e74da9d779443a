"""MODEL, as people name it, to a network and its tokenizer."""

from pathlib import Path

import torch

from lit_gpt_kit.checkpoints.native import NETWORK_PREFIX, read_checkpoint, read_description
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.tokenizer import Tokenizer


def load_model(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[GPT, Tokenizer]:
    """The network, in eval mode, and its tokenizer.

    Args:
        name: a run folder (its best checkpoint is taken), or a checkpoint.
        dtype: of the weights.
        device: where the weights go.

    Raises:
        MissingFileError: there is no such file or folder.
        InputError: it is no model, or a damaged one.
    """
    path = find_checkpoint(Path(name).expanduser())
    checkpoint = read_checkpoint(path)
    description = read_description(checkpoint, str(path))
    if description.tokenizer is None:
        raise InputError(f"{path} holds no tokenizer, so it cannot read or write text")
    vocab_size, num_tokens = description.config.vocab_size, description.tokenizer.vocab_size
    if vocab_size is not None and vocab_size < num_tokens:
        raise InputError(
            f"{path}: vocab_size={vocab_size} is smaller than its tokenizer's {num_tokens} tokens; "
            "the two do not belong together"
        )
    with torch.device("meta"):
        model = GPT(description.config)
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
    return model.to(device=device, dtype=dtype).eval(), description.tokenizer


def find_checkpoint(path: Path) -> Path:
    """The checkpoint of a run folder: the best, else the last, else the newest; or the file itself.

    Raises:
        MissingFileError: there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingFileError(f"model {path} does not exist (from {Path.cwd()})")
    folder = path / "checkpoints"
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise MissingFileError(f"{path} is no run folder: there is no checkpoint in {folder}")
    return found[-1]

"""A model on the Hugging Face hub, by its name."""

import re
from pathlib import Path

from lit_gpt_kit.errors import InputError, MissingFileError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""OWNER/NAME, or NAME alone for the oldest models, such as gpt2."""
WANTED = ("config.json", "generation_config.json", "model*.safetensors",
          "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
          "chat_template.jinja", "vocab.json", "merges.txt", "adapter_config.json",
          "adapter_model.safetensors", "lit_gpt_kit.json")  # fmt: skip
"""The files that we read; a repository may hold the same weights in other formats, too."""


def is_hub_name(name: str) -> bool:
    """`name` may be a model on the hub."""
    return HUB_NAME.fullmatch(name) is not None


def download(name: str) -> Path:
    """The folder of the hub's model, downloaded unless it is in the cache.

    Raises:
        InputError: the library that talks to the hub is not installed.
        MissingFileError: there is no such model, or neither a connection nor a copy in the cache.
    """
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError:
        raise InputError(
            f"model '{name}' is no file or folder; to look for it on the Hugging Face hub, "
            "pip install 'lit-gpt-kit[hub]'"
        ) from None
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except HFValidationError:  # two dots, a name too long and the like
        raise MissingFileError(
            f"model '{name}' is no file or folder (from {Path.cwd()}), and no name that the "
            "Hugging Face hub allows"
        ) from None
    except GatedRepoError:
        raise InputError(
            f"model '{name}' asks for its terms to be accepted: do so on "
            f"https://huggingface.co/{name}, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise MissingFileError(
            f"model '{name}' is no file or folder, and there is no such model on the Hugging Face "
            "hub that you may read; check the name, or `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise MissingFileError(
            f"model '{name}' is no file or folder (from {Path.cwd()}); the Hugging Face hub cannot "
            f"be reached, and there is no copy in its cache, {constants.HF_HUB_CACHE}"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"model '{name}' has no safetensors on the hub; weights in pickles can run code when "
            "they are read, so they were not downloaded. Where you trust it, convert it: "
            f"transformers.AutoModelForCausalLM.from_pretrained('{name}').save_pretrained(FOLDER)"
        )
    return folder

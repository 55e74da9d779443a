"""Which weights a model has, whatever it is called and wherever it lies."""

import hashlib
from pathlib import Path

from lit_gpt_kit.checkpoints import huggingface
from lit_gpt_kit.checkpoints.locate import ADAPTER_WEIGHTS, is_adapter, locate
from lit_gpt_kit.checkpoints.safetensors_folder import SafetensorsFolder
from lit_gpt_kit.checkpoints.sharded import MANIFEST, is_sharded

BYTES_AT_ONCE = 2**20


def fingerprint_weights(name: str | Path) -> str:
    """SHA-256 of the files that hold a model's weights, as 64 hexadecimal digits.

    Of one file it is what `sha256sum` says, and the Hugging Face hub; shards are read in the order
    of their names. It depends neither on the folder nor on the type that weights are loaded in.

    Args:
        name: the model, as `load_model` takes it.

    Raises:
        MissingFileError: there is no such file, folder or model.
        InputError: it is no model, or its files are damaged.
    """
    path = locate(name)
    if huggingface.is_folder(path):
        files = SafetensorsFolder(path).files()
    elif is_adapter(path):
        files = [path / ADAPTER_WEIGHTS]
    elif is_sharded(path):
        files = [path / MANIFEST]  # which holds the hashes of the others
    else:
        files = [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(BYTES_AT_ONCE):
                digest.update(piece)
    return digest.hexdigest()

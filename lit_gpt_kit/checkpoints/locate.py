"""MODEL, as people name it, to the file or folder that holds it."""

from pathlib import Path

from lit_gpt_kit.checkpoints import hub
from lit_gpt_kit.checkpoints.huggingface import is_folder
from lit_gpt_kit.checkpoints.sharded import is_sharded
from lit_gpt_kit.errors import MissingFileError
from lit_gpt_kit.files import moved_aside

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
GGUF_SUFFIX = ".gguf"


def locate(name: str | Path) -> Path:
    """A .gguf file, a Hugging Face folder, a folder of adapters, or else one of our checkpoints.

    Args:
        name: any of these, a run folder, or the name of a model on the Hugging Face hub, which is
            downloaded unless it is in the cache.

    Raises:
        MissingFileError: there is no such file, folder or model.
        InputError: the hub's model is not to be had.
    """
    path = Path(name).expanduser()
    is_file_name = path.suffix in (".ckpt", GGUF_SUFFIX)
    if not path.exists() and not is_file_name and hub.is_hub_name(str(name)):
        path = hub.download(str(name))
    if path.suffix == GGUF_SUFFIX or is_folder(path) or is_adapter(path):
        return path
    return find_checkpoint(path)


def is_adapter(path: Path) -> bool:
    """A folder of adapters in PEFT's format; one that holds a whole model too is that model."""
    return (path / ADAPTER_CONFIG).is_file() and not is_folder(path)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint of a run folder: the best, else the last, else the newest; or the file itself.

    Raises:
        MissingFileError: there is none.
    """
    if _is_checkpoint(path):
        return path
    if _is_checkpoint(moved_aside(path)):  # a crash came between two renames
        return moved_aside(path)
    if not path.is_dir():
        raise MissingFileError(f"model {path} does not exist (from {Path.cwd()})")
    if any(path.glob("*.safetensors")) or any(path.glob("*.bin")):
        raise MissingFileError(f"{path} holds weights, but no config.json that describes them")
    folder = path / "checkpoints"
    for name in ("best.ckpt", "last.ckpt"):
        for place in (folder / name, moved_aside(folder / name)):
            if _is_checkpoint(place):
                return place
    found = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise MissingFileError(
            f"{path} is no model: there is neither a config.json (a Hugging Face folder) nor a "
            f"checkpoint in {folder} (a run folder)"
        )
    return found[-1]


def _is_checkpoint(path: Path) -> bool:
    return path.is_file() or is_sharded(path)

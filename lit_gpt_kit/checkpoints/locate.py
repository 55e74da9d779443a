"""MODEL, as people name it, to the file or folder that holds it."""

from pathlib import Path

from lit_gpt_kit.checkpoints import hub
from lit_gpt_kit.checkpoints.huggingface import is_folder
from lit_gpt_kit.checkpoints.native import BEST_FILE, LAST_FILE, best_of_run, checkpoints_in
from lit_gpt_kit.checkpoints.sharded import is_sharded
from lit_gpt_kit.errors import MissingFileError
from lit_gpt_kit.files import moved_aside

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
GGUF_SUFFIX = ".gguf"
CHECKPOINTS = "checkpoints"
"""Where they lie in a run folder."""


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


def is_obvious(name: str | Path, found: Path) -> bool:
    """Whether a person knows which file is meant: named itself, or the best.ckpt of a run folder.

    Args:
        name: as the person named it.
        found: what `locate` makes of it.
    """
    path = Path(name).expanduser()
    return found in (path, path / CHECKPOINTS / BEST_FILE) or found.suffix != ".ckpt"


def is_adapter(path: Path) -> bool:
    """A folder of adapters in PEFT's format; one that holds a whole model too is that model."""
    return (path / ADAPTER_CONFIG).is_file() and not is_folder(path)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint of a run folder: the best, else the last, else the newest; or the file itself.

    The best is best.ckpt, or what the last one says that a configured ModelCheckpoint kept as such.

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
    folder = path / CHECKPOINTS
    for name in (BEST_FILE, LAST_FILE):
        for place in (folder / name, moved_aside(folder / name)):
            if _is_checkpoint(place):
                return place if name == BEST_FILE else best_of_run(place) or place
    found = sorted(checkpoints_in(folder), key=lambda file: file.stat().st_mtime)
    if not found:
        raise MissingFileError(
            f"{path} is no model: there is neither a config.json (a Hugging Face folder) nor a "
            f"checkpoint in {folder} (a run folder)"
        )
    return found[-1]


def _is_checkpoint(path: Path) -> bool:
    return path.is_file() or is_sharded(path)

"""FolderReader: lets a run on one device, or with DDP, go on from a sharded checkpoint."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from lit_gpt_kit.checkpoints.native import keep_previous_as
from lit_gpt_kit.checkpoints.sharded import is_sharded, read_sharded
from lit_gpt_kit.files import put_in_place


class FolderReader(CheckpointIO):
    """Reads folders, and writes files where they were; leaves all else to another.

    Args:
        checkpoint_io: what reads and writes files.
    """

    def __init__(self, checkpoint_io: CheckpointIO) -> None:
        self.checkpoint_io = checkpoint_io

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint, as if one process had written it."""
        if "://" not in str(path) and is_sharded(Path(path)):
            return read_sharded(Path(path))
        return self.checkpoint_io.load_checkpoint(path, *args, **options)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, *args: Any, **options: Any
    ) -> None:
        """Write a file, perhaps in the place of a folder."""
        if "://" in str(path) or not is_sharded(Path(path)):
            self.checkpoint_io.save_checkpoint(checkpoint, path, *args, **options)
            return
        beside = Path(path).with_name(f".{Path(path).name}.unfinished")
        self.checkpoint_io.save_checkpoint(checkpoint, beside, *args, **options)
        put_in_place(beside, Path(path), keep_previous_as(Path(path)))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        self.checkpoint_io.remove_checkpoint(path)

    def teardown(self) -> None:
        """Finish what is under way."""
        self.checkpoint_io.teardown()

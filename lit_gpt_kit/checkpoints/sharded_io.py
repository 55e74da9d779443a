"""FolderReader: lets a run on one device, or with DDP, go on from a sharded checkpoint."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from lit_gpt_kit.checkpoints.sharded import is_sharded, read_sharded


class FolderReader(CheckpointIO):
    """Reads folders, and leaves all else to another.

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

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        """Write a file."""
        self.checkpoint_io.save_checkpoint(*args, **options)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        self.checkpoint_io.remove_checkpoint(path)

    def teardown(self) -> None:
        """Finish what is under way."""
        self.checkpoint_io.teardown()

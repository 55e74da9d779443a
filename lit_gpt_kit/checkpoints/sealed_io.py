"""What writes and reads the checkpoints of a Trainer: sealed files, at once or by a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lit_gpt_kit.checkpoints.native import keep_previous_as, refuse_damaged
from lit_gpt_kit.checkpoints.seal import save_sealed


class SealedCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and say so themselves.

    Each is written beside its place, flushed to the disk, and renamed; what it holds is hashed, and
    the hash is checked when it is read. What last.ckpt was before is kept as previous.ckpt. Places
    that are no files of this machine (`s3://...`) are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write it.

        Raises:
            InputError: the disk is full; the older checkpoint is still there.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        save_sealed(checkpoint, path, keep_previous_as(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, place: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read it.

        Raises:
            InputError: it was cut short or altered.
        """
        if "://" not in str(path) and Path(path).is_file():
            refuse_damaged(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)


class AsyncSealedCheckpointIO(SealedCheckpointIO):
    """The same, written by a thread while training goes on.

    What is saved is the state at the time of the call: it is copied into the host's memory first.
    One checkpoint is on its way at a time; the next waits for it. What goes wrong is raised by the
    next call, or at the end of the run, which waits too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Copy it, and have it written.

        Raises:
            InputError: the disk was full when the one before was written.
        """
        self._finish()
        copied = apply_to_collection(checkpoint, Tensor, _Copies())
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        save = super().save_checkpoint
        self._pending = self._thread.submit(save, copied, path, storage_options)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read it, once all is written."""
        self._finish()
        return super().load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove it, once what takes its place is written."""
        self._finish()
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """Wait until all is written.

        Raises:
            InputError: the disk was full.
        """
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self._finish()

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


class _Copies:
    """Copies of tensors in the host's memory; tied weights are copied once, and saved once."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        where = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if not tensor.numel() or where not in self._made:
            self._made[where] = tensor.detach().to("cpu", copy=True)
        return self._made[where]

"""Files that are whole or not there: written beside their place and renamed into it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from lit_gpt_kit.errors import InputError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path` and rename it into place, so that no half file is ever read.

    Raises:
        InputError: the disk is full; what `path` held before is still there. Or `path` is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    # Not of `tempfile`, whose files no other user may read.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with says_when_full(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, renamed into its place when the body is done.

    Raises:
        InputError: `folder` is a file, or is not empty.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a new folder, or empty it")
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        with says_when_full(folder.parent):
            temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(folder)  # an empty folder gives way
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(new: Path, place: Path, keep_as: Path | None = None) -> None:
    """Rename a file or folder into a place that may be taken; what was there is deleted afterwards.

    A crash between the renames leaves what was there under the name of `moved_aside`, or under
    that which it is kept under.

    Args:
        new: what goes there.
        place: where it goes.
        keep_as: what was there is kept under this name, in whose place it goes.
    """
    if place.exists():
        if keep_as is None:
            move_aside(place)
        else:
            move_aside(keep_as)  # while there still is something in `place`
            place.replace(keep_as)
    new.replace(place)
    for old in (moved_aside(place), *([] if keep_as is None else [moved_aside(keep_as)])):
        _delete(old)


def move_aside(place: Path) -> None:
    """Call what is in a place, if anything is, by another name; see `moved_aside`."""
    if place.exists():
        _delete(moved_aside(place))
        place.replace(moved_aside(place))


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def moved_aside(place: Path) -> Path:
    """What `place` is called while something new is put there."""
    return place.with_name(f".{place.name}.old")


@contextmanager
def says_when_full(folder: Path) -> Iterator[None]:
    """Turn "no space left on device" into one line that names the folder, be it there or not.

    Raises:
        InputError: the body ran out of disk space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        raise InputError(
            f"the disk that holds {folder} is full ({free / 2**20:,.0f} MiB free); "
            "free some space or choose another folder"
        ) from error

"""Files that are whole or not there: written beside their place and renamed into it."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_gpt_kit.errors import InputError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_atomically(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename it into place, so that no half file is ever read.

    Raises:
        InputError: the disk is full; what `path` held before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with says_when_full(path.parent), os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def says_when_full(folder: Path) -> Iterator[None]:
    """Turn "no space left on device" into one line that names the folder.

    Raises:
        InputError: the body ran out of disk space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"the disk that holds {folder} is full ({free / 2**20:,.0f} MiB free); "
            "free some space or choose another folder"
        ) from error

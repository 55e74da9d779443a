"""Files are whole or not there, and a full disk is said in one line."""

import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_gpt_kit import files
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import moved_aside, put_in_place, says_when_full, write_atomically


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The system refuses to let a file grow further, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(text=st.text())
def test_text_is_written(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("files") / "a.txt"
    write_atomically(path, text)
    assert path.read_bytes() == text.encode()


def test_folders_are_made_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "b" / "c" / "a.txt"
    write_atomically(path, "first")
    write_atomically(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_it_as_any_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "text")
    (tmp_path / "plain.txt").write_text("text")
    modes = [(tmp_path / name).stat().st_mode for name in ("a.txt", "plain.txt")]
    assert modes[0] == modes[1]


def test_a_reader_never_sees_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a.txt", []
    write_atomically(path, "old")
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((self.read_text(), path.read_text(), self.parent))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_atomically(path, "new")
    assert seen == [("new", "old", path.parent)]
    assert path.read_text() == "new"


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with files_of_at_most(1000), pytest.raises(InputError) as caught:
        write_atomically(path, "new" * 1000)
    assert re.fullmatch(
        rf"the disk that holds {re.escape(str(tmp_path))} is full \([\d,]+ MiB free\); "
        "free some space or choose another folder",
        str(caught.value),
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_says_when_full(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "not" / "there"
    with (
        pytest.raises(InputError, match=re.escape(f"holds {folder} is full (")),
        says_when_full(folder),
    ):
        raise OSError(number, os.strerror(number))


def test_says_how_much_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=1234 * 2**20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"\(1,234 MiB free\)"), says_when_full(tmp_path):
        raise OSError(errno.ENOSPC, "full")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), says_when_full(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(KeyError), says_when_full(tmp_path):
        raise KeyError


@pytest.mark.parametrize("was", ["nothing", "a file", "a folder"])
def test_a_folder_takes_the_place_of_what_was_there(was: str, tmp_path: Path) -> None:
    new, place = tmp_path / "new", tmp_path / "place"
    new.mkdir()
    (new / "content").write_text("new")
    if was == "a file":
        place.write_text("old")
    elif was == "a folder":
        place.mkdir()
        (place / "other").write_text("old")
    put_in_place(new, place)
    assert [path.name for path in place.iterdir()] == ["content"]
    assert list(tmp_path.iterdir()) == [place]


def test_after_a_crash_between_two_renames_the_old_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "content").write_text("old")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "missing", place)
    assert (moved_aside(place) / "content").read_text() == "old"


def test_a_crash_at_any_time_leaves_what_was_there_or_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is kept under another name, where an older one was kept before."""

    def folder(name: str, content: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(content)
        return tmp_path / name

    class CrashError(Exception):
        pass

    place, kept = folder("place", "old"), folder("kept", "older")
    replace, found = Path.replace, []
    for num_renames in range(4):
        left = iter(range(num_renames))

        def rename(*args: Any, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise CrashError
            replace(*args)

        monkeypatch.setattr(Path, "replace", rename)
        new = folder(f"new{num_renames}", "new")
        with suppress(CrashError):
            put_in_place(new, place, keep_as=kept)
        contents = [path / "content" for path in (place, kept)]
        found.append([path.read_text() if path.exists() else None for path in contents])
        # Begun again: what was left behind is no hindrance.
        monkeypatch.setattr(Path, "replace", replace)
        for path, content in ((place, "old"), (kept, "older")):
            shutil.rmtree(path, ignore_errors=True)
            folder(path.name, content)
    assert found == [["old", "older"], ["old", None], [None, "old"], ["new", "old"]]
    put_in_place(folder("last", "new"), place, keep_as=kept)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

"""Sealed files: whole or refused, and never at the cost of the one before."""

import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

from lit_gpt_kit.checkpoints import seal
from lit_gpt_kit.checkpoints.seal import has_good_seal, save_sealed
from lit_gpt_kit.errors import InputError

CONTENT = {"weights": torch.arange(3000.0), "step": 7, "few": torch.tensor([1, 2])}


@pytest.fixture(autouse=True)
def know_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process."""
    monkeypatch.setattr(seal, "_known_whole", set())


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "x.ckpt"
    save_sealed(CONTENT, path)
    seal._known_whole.clear()
    return path


def load(path: Path, **options: Any) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True, **options)
    return content


@pytest.mark.parametrize("options", [{}, {"mmap": True}])
def test_torch_reads_it(sealed: Path, options: dict[str, Any]) -> None:
    content = load(sealed, **options)
    assert content["step"] == 7
    assert torch.equal(content["weights"], CONTENT["weights"])  # type: ignore[arg-type]
    assert torch.equal(content["few"], torch.tensor([1, 2]))
    assert [path.name for path in sealed.parent.iterdir()] == ["x.ckpt"]


def test_the_comment_is_the_hash_of_what_is_before_it(sealed: Path) -> None:
    with ZipFile(sealed) as archive:
        assert archive.testzip() is None
        comment = archive.comment
    whole = sealed.read_bytes()
    assert whole.endswith(comment)
    digest = hashlib.sha256(whole[: -len(comment)]).hexdigest()
    assert comment == f"lit-gpt sha256 {digest}".encode()
    assert has_good_seal(sealed) is True


def test_what_torch_wrote_has_no_seal(tmp_path: Path) -> None:
    path = tmp_path / "plain.ckpt"
    torch.save(CONTENT, path)
    assert has_good_seal(path) is None
    path.write_text("a poem")
    assert has_good_seal(path) is None
    path.write_text("")
    assert has_good_seal(path) is None


def test_a_lost_end_is_noticed_byte_by_byte(sealed: Path, tmp_path: Path) -> None:
    whole = sealed.read_bytes()
    for lost in range(1, seal.COMMENT_LENGTH + 1):
        cut = tmp_path / f"{lost}.ckpt"
        cut.write_bytes(whole[:-lost])
        assert has_good_seal(cut) is False, lost
    # Without the zip's own end torch notices.
    (tmp_path / "cut.ckpt").write_bytes(whole[: -seal.COMMENT_LENGTH - 1])
    with pytest.raises((OSError, RuntimeError)):
        load(tmp_path / "cut.ckpt")


def test_every_byte_counts(sealed: Path, tmp_path: Path) -> None:
    whole = sealed.read_bytes()
    for place in range(0, len(whole), 97):
        altered = bytearray(whole)
        altered[place] ^= 0x10
        path = tmp_path / f"{place}.ckpt"
        path.write_bytes(altered)
        assert has_good_seal(path) is not True, place


def test_a_file_that_changes_is_hashed_again(sealed: Path) -> None:
    assert has_good_seal(sealed) is True
    altered = bytearray(sealed.read_bytes())
    altered[2000] ^= 1
    sealed.write_bytes(altered)
    os.utime(sealed, (1, 1))
    assert has_good_seal(sealed) is False


def test_what_was_there_is_kept_under_another_name(sealed: Path) -> None:
    previous = sealed.with_name("previous.ckpt")
    for step in (8, 9):
        save_sealed({"step": step}, sealed, keep_as=previous)
        assert load(sealed) == {"step": step}
        assert load(previous)["step"] == step - 1
    assert sorted(path.name for path in sealed.parent.iterdir()) == ["previous.ckpt", "x.ckpt"]


def test_where_there_are_no_links_it_is_renamed(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "link", refuse)
    previous = sealed.with_name("previous.ckpt")
    save_sealed({"step": 8}, sealed, keep_as=previous)
    assert load(sealed) == {"step": 8}
    assert load(previous)["step"] == 7


def test_a_damaged_one_takes_no_good_ones_place(sealed: Path) -> None:
    previous = sealed.with_name("previous.ckpt")
    save_sealed({"step": 6}, previous)
    sealed.write_bytes(sealed.read_bytes()[:-1])
    save_sealed({"step": 8}, sealed, keep_as=previous)
    assert load(sealed) == {"step": 8}
    assert load(previous) == {"step": 6}


@contextmanager
def small_files(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("missing", [1, 10, 90, 1000, 8000, 13_900])
def test_a_full_disk_leaves_what_was_there(sealed: Path, missing: int) -> None:
    before = sealed.read_bytes()
    previous = sealed.with_name("previous.ckpt")
    with small_files(len(before) - missing), pytest.raises(InputError) as caught:
        save_sealed({**CONTENT, "step": 8}, sealed, keep_as=previous)
    assert str(caught.value).startswith(f"the disk that holds {sealed.parent} is full (")
    assert sealed.read_bytes() == before
    assert [path.name for path in sealed.parent.iterdir()] == ["x.ckpt"]


def test_what_torch_cannot_write_is_said_by_torch(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="local object"):
        save_sealed({"code": lambda: 0}, tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []

"""Compressed files read as their content: whole, or an error; never a part taken for the whole."""

import gzip
import io
import random
import re
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data.compression import is_compressed, open_bytes
from lit_gpt_kit.errors import InputError

zstandard = pytest.importorskip("zstandard")

CONTENT = b"".join(b"%d little pigs\n" % random.Random(0).randrange(10**9) for _ in range(2000))
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz"


def zst(content: bytes) -> bytes:
    return bytes(zstandard.ZstdCompressor().compress(content))


COMPRESS = {".gz": gzip.compress, ".zst": zst}


def read(path: Path) -> bytes:
    with open_bytes(path) as file:
        return file.read()


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".GZ", ".Zst", ""])
def test_content_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS.get(suffix.lower(), bytes)(CONTENT))
    assert is_compressed(path) is bool(suffix)
    assert read(path) == CONTENT
    with open_bytes(path) as file:
        assert list(file) == CONTENT.splitlines(keepends=True)


@settings(deadline=None)
@given(parts=st.lists(st.binary()), size=st.integers(1, 50), suffix=st.sampled_from([*COMPRESS]))
def test_parts_compressed_one_by_one_are_one_file(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], size: int, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("parts") / f"a{suffix}"
    path.write_bytes(b"".join(map(COMPRESS[suffix], parts)))
    with open_bytes(path) as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == b"".join(parts)


def test_skippable_frames_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    path.write_bytes(SKIPPABLE_FRAME + zst(b"one") + SKIPPABLE_FRAME + zst(b"two"))
    assert read(path) == b"onetwo"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_cut_short_is_noticed(tmp_path: Path, suffix: str) -> None:
    whole = COMPRESS[suffix](CONTENT)
    path = tmp_path / f"a{suffix}"
    for length in [*range(1, 30), *range(30, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises((EOFError, gzip.BadGzipFile)):
            read(path)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damage_is_noticed(tmp_path: Path, suffix: str) -> None:
    whole = bytearray(COMPRESS[suffix](CONTENT))
    path = tmp_path / f"a{suffix}"
    for place in range(0, len(whole) - 40, 499):
        path.write_bytes(whole[:place] + b"\xff" * 40 + whole[place + 40 :])
        with pytest.raises((OSError, EOFError, zlib.error)) as caught:
            read(path)
        assert getattr(caught.value, "errno", None) is None


def test_repetitive_text_is_not_expanded_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    path.write_bytes(zst(b"the same line again and again\n" * 4_000_000))
    tracemalloc.start()
    with open_bytes(path) as file:
        total = sum(len(block) for block in iter(lambda: file.read(1 << 16), b""))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 120_000_000
    assert peak_bytes < 50_000_000


def test_closing_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    path.write_bytes(zst(CONTENT))
    file = open_bytes(path)
    assert isinstance(file, io.BufferedReader)
    file.close()
    assert file.raw._file.closed


def test_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zst(CONTENT))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    expected = (
        f"{path} needs the library zstandard; install it with: pip install 'lit-gpt-kit[data]'"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        open_bytes(path)

"""The corpora that every Python has: made of the standard library, nothing else."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_gpt_kit.data import builtin
from lit_gpt_kit.data.builtin import python_fingerprint, read_python_code, read_python_docs
from lit_gpt_kit.data.documents import Piece


def read(corpus: Callable[[], Iterator[Piece]]) -> list[str]:
    found = [""]
    for piece in corpus():
        found[-1] += piece.text
        if piece.ends_document:
            found.append("")
    return found[:-1]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of a few files."""
    files = {
        "b.py": b'"""Module b."""\n\ndef f():\n    """Does f."""\n\nclass C:\n    """A C."""\n',
        "a/c.py": b'async def g():\n    """  Awaits.\n    g.\n    """\n',
        "broken.py": b'"""Lost."""\n(',
        "latin.py": b'# -*- coding: latin-1 -*-\n"""Caf\xe9."""\n',
        "bare.py": b"x = 1\n",
        "notes.txt": b"no code",
        "site-packages/other.py": b'"""Of somebody else."""\n',
        "test/test_a.py": b'"""A test."""\n',
        "a/tests/test_b.py": b'"""A test."""\n',
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(builtin, "_standard_library", lambda: tmp_path)
    return tmp_path


def test_code_is_every_file_in_order(library: Path) -> None:
    names = ["a/c.py", "b.py", "bare.py", "broken.py", "latin.py"]
    expected = [(library / name).read_bytes().decode(errors="replace") for name in names]
    assert read(read_python_code) == expected
    assert expected[-1].endswith('"""Caf�."""\n')


def test_docs_are_topics_then_docstrings(library: Path) -> None:
    from pydoc_data.topics import topics

    expected = [topics[name].strip() + "\n" for name in sorted(topics)]
    expected += ["Awaits.\ng.\n\n", "Module b.\n\nDoes f.\n\nA C.\n\n", "Café.\n\n"]
    assert read(read_python_docs) == expected


def test_real_code_is_a_corpus() -> None:
    documents = read(read_python_code)
    assert len(documents) > 300
    assert sum(map(len, documents)) > 5_000_000
    assert any("class JSONDecoder" in text for text in documents)
    assert not any("class TestCase(unittest" in text for text in documents)


def test_real_docs_are_a_corpus_and_nothing_is_imported() -> None:
    documents = read(read_python_docs)
    assert sum(map(len, documents)) > 1_000_000
    assert any("JSON (JavaScript Object Notation)" in text for text in documents)
    assert any(text.startswith('The "if" statement') for text in documents)
    assert "antigravity" not in sys.modules  # it would open a browser


def test_fingerprint_names_the_python() -> None:
    assert python_fingerprint() == python_fingerprint()
    assert sys.version in python_fingerprint()
    assert sys.implementation.name in python_fingerprint()


def test_fingerprint_names_the_place(library: Path) -> None:
    assert str(library) in python_fingerprint()

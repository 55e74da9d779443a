"""Corpora that exist on every Python: nothing to download, nothing to license anew."""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from lit_gpt_kit.data.documents import Piece, cut_text

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "pydoc_data"}
)
"""Not prose and not typical code, or not there on every Python."""


def read_python_code() -> Iterator[Piece]:
    """The standard library's source files, one document each."""
    for path in _source_files():
        yield from cut_text(path.read_bytes().decode("utf-8", errors="replace"))


def read_python_docs() -> Iterator[Piece]:
    """The language reference's topics and the docstrings of the standard library.

    One document a topic, one a module. The modules are parsed, never imported.
    """
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from cut_text(topics[name].strip() + "\n")
    for path in _source_files():
        if text := _docstrings(path):
            yield from cut_text(text)


def python_fingerprint() -> str:
    """Names the Python whose standard library is read."""
    return f"{sys.implementation.name}-{sys.version}-{_standard_library()}"


def _standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _source_files() -> list[Path]:
    root = _standard_library()
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not SKIPPED_FOLDERS & set(path.relative_to(root).parts)
    ]


def _docstrings(path: Path) -> str:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a few files are broken on purpose
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
    return "".join(f"{text.strip()}\n\n" for text in texts if text and text.strip())

"""What a person may name as a source, and the documents behind it.

A source is a file, a folder, a glob, a URL with its sha256, or a builtin corpus.
"""

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_gpt_kit.data.builtin import python_fingerprint, read_python_code, read_python_docs
from lit_gpt_kit.data.compression import is_compressed
from lit_gpt_kit.data.documents import FORMATS, Piece, format_suffix, read_documents
from lit_gpt_kit.data.download import download
from lit_gpt_kit.errors import InputError, MissingFileError, did_you_mean

BUILTINS: dict[str, Callable[[], Iterator[Piece]]] = {
    "builtin:python-docs": read_python_docs,
    "builtin:python-code": read_python_code,
}


@dataclass(frozen=True)
class BuiltinSource:
    """A corpus made from this Python's standard library."""

    name: str
    num_bytes: None = None

    @property
    def fingerprint(self) -> str:
        """Changes when the content may have changed."""
        return f"{self.name} {python_fingerprint()}"

    def read(self) -> Iterator[Piece]:
        """The documents."""
        return BUILTINS[self.name]()


@dataclass(frozen=True)
class FileSource:
    """A file and the field that holds its text."""

    path: Path
    text_field: str

    @property
    def num_bytes(self) -> int | None:
        """Size of the text; None where it is compressed."""
        return None if is_compressed(self.path) else self.path.stat().st_size

    @property
    def fingerprint(self) -> str:
        """Changes when the content may have changed: path, size, time of change, field."""
        stat = self.path.stat()
        path = self.path.resolve()
        return f"{path} {stat.st_size} {stat.st_mtime_ns} {self.text_field}"

    def read(self) -> Iterator[Piece]:
        """The documents."""
        return read_documents(self.path, self.text_field)


Source = BuiltinSource | FileSource


def resolve_sources(sources: Sequence[str], text_field: str, download_folder: Path) -> list[Source]:
    """The files and corpora that `sources` name, in a fixed order.

    Args:
        sources: files, folders, globs, URLs with their sha256, builtin corpora.
        text_field: the field that holds the text in formats that have fields.
        download_folder: where files from the web are kept.

    Raises:
        MissingFileError: a file or folder is not there.
        InputError: a file is empty or of an unknown format, a folder or glob holds no text file,
            a builtin corpus is unknown, a download fails.
    """
    if not sources:
        raise InputError("sources is empty; name at least one file, folder, glob or URL")
    resolved: list[Source] = []
    for source in sources:
        if source.startswith("builtin:"):
            if source not in BUILTINS:
                hint = did_you_mean(source, BUILTINS)
                raise InputError(f"there is no corpus {source}{hint}")
            resolved.append(BuiltinSource(source))
        else:
            files = _resolve_files(source, download_folder)
            resolved.extend(FileSource(path, text_field) for path in files)
    return resolved


def read_pieces(sources: Iterable[Source]) -> Iterator[Piece]:
    """All documents of all sources, in pieces, documents without text left out."""
    for source in sources:
        inside = False
        for piece in source.read():
            if piece.text or inside:
                yield piece
            inside = not piece.ends_document and (inside or bool(piece.text))


def _resolve_files(source: str, download_folder: Path) -> list[Path]:
    if source.startswith(("http://", "https://")):
        return [_checked(download(source, download_folder))]
    path = Path(source).expanduser()
    if path.is_dir():
        return _text_files(source, path.rglob("*"))
    if path.exists():
        return [_checked(path)]
    if glob.has_magic(source):
        return _text_files(source, map(Path, glob.glob(str(path), recursive=True)))
    raise MissingFileError(f"source {source} does not exist (from {Path.cwd()})")


def _text_files(source: str, paths: Iterable[Path]) -> list[Path]:
    files = sorted(
        path
        for path in paths
        if path.is_file() and format_suffix(path) is not None and path.stat().st_size > 0
    )
    if not files:
        raise InputError(f"source {source} holds no text; looked for {_known_formats()}")
    return files


def _checked(path: Path) -> Path:
    if format_suffix(path) is None:
        raise InputError(f"{path} is of an unknown format; known: {_known_formats()}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    return path


def _known_formats() -> str:
    return ", ".join(str(suffix) for suffix in FORMATS) + " (each also .gz or .zst)"

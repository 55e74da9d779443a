"""Documents as tokens on disk, memory-mapped: made once, whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lit_gpt_kit.data.cache import build_once, flush_to_disk
from lit_gpt_kit.data.documents import Piece
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

FORMAT_VERSION = 2
"""Part of every cache key; raise it when the files' meaning changes."""
BATCH_CHARACTERS = 4 << 20
"""Text encoded at once: enough for all cores, little enough to stay far from the memory's end."""


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        num_tokens: ids, end tokens included.
        num_documents: texts.
        num_bytes: of text.
        token_dtype: of the ids.
        sha256: of the ids and of where documents end.
    """

    num_tokens: int
    num_documents: int
    num_bytes: int
    token_dtype: str
    sha256: str


class TokenStore:
    """The tokens of a corpus, document after document, each with its end token.

    Attributes:
        tokens: (num_tokens,) ids, memory-mapped.
        document_ends: (num_documents,) where each document ends in `tokens`, memory-mapped.
        info: counts.
    """

    def __init__(self, folder: Path) -> None:
        self.info = StoreInfo(**json.loads((folder / "info.json").read_text()))
        self.tokens = _map(folder / "tokens.bin", self.info.token_dtype, self.info.num_tokens)
        self.document_ends = _map(folder / "documents.bin", "int64", self.info.num_documents)


def open_or_build(
    folder: Path,
    pieces: Callable[[], Iterable[Piece]],
    tokenizer: Tokenizer,
    on_progress: Callable[[int], None] = lambda num_bytes: None,
) -> TokenStore:
    """The store in `folder`, made from `pieces` if it is not there yet.

    Args:
        folder: where the store lies; its name should change with the sources and the tokenizer.
        pieces: opens the stream of documents.
        tokenizer: encodes them.
        on_progress: called with the number of bytes of text each time some are done.

    Raises:
        InputError: there is no text, or the disk is full.
    """

    def write(unfinished: Path) -> None:
        info = _write(unfinished, pieces(), tokenizer, on_progress)
        with (unfinished / "info.json").open("wb") as file:
            file.write(json.dumps(asdict(info)).encode())
            flush_to_disk(file)
        if not info.num_tokens:
            raise InputError("the sources hold no text")

    build_once(folder, _is_whole, write)
    return TokenStore(folder)


def _write(
    folder: Path, pieces: Iterable[Piece], tokenizer: Tokenizer, on_progress: Callable[[int], None]
) -> StoreInfo:
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    end = [] if tokenizer.end_id is None else [tokenizer.end_id]
    num_tokens = num_bytes = num_documents = 0
    content = hashlib.sha256()
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "documents.bin").open("wb") as ends,
    ):
        for batch in _batches(pieces):
            encoded = tokenizer.encode_batch([piece.text for piece in batch])
            borders = []
            for piece, ids in zip(batch, encoded, strict=True):
                content.update(_append(tokens, ids + end if piece.ends_document else ids, dtype))
                num_tokens += len(ids)
                if piece.ends_document:
                    num_tokens += len(end)
                    borders.append(num_tokens)
            content.update(_append(ends, borders, "int64"))
            num_documents += len(borders)
            batch_bytes = sum(len(piece.text.encode()) for piece in batch)
            num_bytes += batch_bytes
            on_progress(batch_bytes)
        for file in (tokens, ends):
            flush_to_disk(file)
    return StoreInfo(num_tokens, num_documents, num_bytes, dtype, content.hexdigest())


def _batches(pieces: Iterable[Piece]) -> Iterable[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _append(file: BinaryIO, numbers: list[int], dtype: str) -> bytes:
    written = np.array(numbers, dtype=dtype).tobytes()
    file.write(written)
    return written


def _is_whole(folder: Path) -> bool:
    try:
        TokenStore(folder)
    except (OSError, ValueError, TypeError):
        return False
    return True


def _map(path: Path, dtype: str, length: int) -> NDArray[np.integer]:
    array: NDArray[np.integer] = np.memmap(path, dtype=dtype, mode="r", shape=(length,))
    if path.stat().st_size != array.nbytes:
        raise ValueError(f"{path} is not as long as its store says")
    return array

"""Documents laid end to end and cut into rows: no padding, no token wasted."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_gpt_kit.data.order import stratified_choice
from lit_gpt_kit.data.token_store import TokenStore
from lit_gpt_kit.model.loss import IGNORE_INDEX

Batch = dict[str, Tensor]


class TokenStream:
    """Some of a store's tokens as one long stream.

    Args:
        store: where the tokens lie.
        spans: (num_spans, 2) from where to where in the store, in the order of the stream.
    """

    def __init__(self, store: TokenStore, spans: NDArray[np.int64]) -> None:
        self.store = store
        self.spans = spans
        self.span_ends = np.cumsum(spans[:, 1] - spans[:, 0])
        self.num_tokens = int(self.span_ends[-1]) if len(spans) else 0

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """The ids of `length` tokens from `start`; fewer at the stream's end."""
        parts = [self.store.tokens[a:b] for a, b in self._places(start, length)]
        return np.concatenate(parts).astype(np.int64)

    def document_ids(self, start: int, length: int) -> NDArray[np.int64]:
        """Which document each of these tokens belongs to."""
        places = [np.arange(a, b) for a, b in self._places(start, length)]
        return np.searchsorted(self.store.document_ends, np.concatenate(places), side="right")

    def _places(self, start: int, length: int) -> list[tuple[int, int]]:
        """Where in the store a part of the stream lies."""
        stop = min(start + length, self.num_tokens)
        places = []
        span = int(np.searchsorted(self.span_ends, start, side="right"))
        while start < stop:
            end = min(stop, int(self.span_ends[span]))
            last = int(self.spans[span, 1]) - int(self.span_ends[span])
            places.append((start + last, end + last))
            start, span = end, span + 1
        return places


def split_store(store: TokenStore, val_fraction: float) -> tuple[TokenStream, TokenStream]:
    """The store's training part and its validation part, whole documents each.

    The documents of the validation part are spread evenly over the corpus and do not depend on any
    seed. A corpus of fewer than 1 / val_fraction documents has none to spare: its last tokens are
    the validation part.

    Args:
        store: the corpus.
        val_fraction: the share of the documents kept for validation; 0 keeps none.
    """
    chosen = stratified_choice(store.info.num_documents, val_fraction)
    if val_fraction == 0 or len(chosen):
        ends = np.asarray(store.document_ends)
        starts = np.concatenate([[0], ends[:-1]])
        val = np.stack([starts[chosen], ends[chosen]], axis=1).astype(np.int64)
        borders = np.concatenate([[0], val.flatten(), [store.info.num_tokens]])
        train = borders.reshape(-1, 2)
        train = train[train[:, 0] < train[:, 1]]
    else:
        border = int(store.info.num_tokens * (1 - val_fraction))
        train = np.array([[0, border]], dtype=np.int64)
        val = np.array([[border, store.info.num_tokens]], dtype=np.int64)
    return TokenStream(store, train), TokenStream(store, val)


def pack_rows(
    stream: TokenStream, starts: NDArray[np.int64], block_size: int, isolate_documents: bool
) -> Batch:
    """A batch of the rows that begin at `starts`.

    A row that the stream's end cuts short is filled with token 0 and IGNORE_INDEX targets.

    Args:
        stream: the tokens.
        starts: (batch,) where the rows begin; a row at or past the end holds no target at all.
        block_size: length of a row.
        isolate_documents: add `document_ids`, and let no loss fall on guessing a document's first
            token from the document before it.

    Returns:
        `input_ids` and `targets`, (batch, block_size) int64: targets[b, t] follows
        input_ids[b, t]. With `isolate_documents` also `document_ids` of the same shape.
    """
    shape = (len(starts), block_size + 1)
    tokens = np.zeros(shape, dtype=np.int64)
    is_target = np.zeros(shape, dtype=bool)
    documents = np.zeros(shape, dtype=np.int64)
    for row, start in enumerate(starts):
        if start >= stream.num_tokens:
            continue
        ids = stream.read(int(start), block_size + 1)
        tokens[row, : len(ids)] = ids
        is_target[row, : len(ids)] = True
        if isolate_documents:
            documents[row, : len(ids)] = stream.document_ids(int(start), block_size + 1)
    is_target[:, 1:] &= documents[:, 1:] == documents[:, :-1]
    targets = np.where(is_target[:, 1:], tokens[:, 1:], IGNORE_INDEX)
    batch = {"input_ids": tokens[:, :-1].copy(), "targets": targets}
    if isolate_documents:
        batch["document_ids"] = documents[:, :-1].copy()
    return {name: torch.from_numpy(array) for name, array in batch.items()}

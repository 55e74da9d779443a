"""Packing: every token in its place, every target the token after, against naive references."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data.documents import Piece
from lit_gpt_kit.data.packing import TokenStream, pack_rows, split_store
from lit_gpt_kit.data.token_store import open_or_build
from lit_gpt_kit.model.loss import IGNORE_INDEX
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

MakeStore = Callable[[list[int]], SimpleNamespace]
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=20)


def stream_of(store: Any, spans: list[tuple[int, int]]) -> TokenStream:
    return TokenStream(store, np.array(spans, dtype=np.int64).reshape(-1, 2))


def document_of(store: SimpleNamespace, place: int) -> int:
    return next(d for d, end in enumerate(store.document_ends.tolist()) if place < end)


@st.composite
def spans_within(draw: st.DrawFn, num_tokens: int) -> list[tuple[int, int]]:
    """Spans of a store, in order, apart or touching, some of them empty."""
    borders = draw(st.lists(st.integers(0, num_tokens), max_size=12))
    borders = sorted(borders[: len(borders) // 2 * 2])
    return list(zip(borders[::2], borders[1::2], strict=True))


@settings(deadline=None)
@given(data=st.data(), lengths=LENGTHS)
def test_a_stream_is_its_spans_end_to_end(
    counting_store: MakeStore, data: st.DataObject, lengths: list[int]
) -> None:
    store = counting_store(lengths)
    spans = data.draw(spans_within(sum(lengths)))
    stream = stream_of(store, spans)
    tokens = [i for a, b in spans for i in range(a, b)]
    assert stream.num_tokens == len(tokens)
    if not tokens:
        return
    start = data.draw(st.integers(0, len(tokens) - 1))
    length = data.draw(st.integers(1, len(tokens) + 3))
    expected = tokens[start : start + length]
    ids = stream.read(start, length)
    assert ids.dtype == np.int64
    assert ids.tolist() == expected
    documents = stream.document_ids(start, length)
    assert documents.tolist() == [document_of(store, place) for place in expected]


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=200), fraction=st.floats(0, 0.99))
def test_split_parts_are_disjoint_and_together_everything(
    counting_store: MakeStore, lengths: list[int], fraction: float
) -> None:
    store = counting_store(lengths)
    train, val = split_store(store, fraction)
    parts = [
        stream.read(0, stream.num_tokens).tolist() if stream.num_tokens else []
        for stream in (train, val)
    ]
    assert sorted(parts[0] + parts[1]) == list(range(sum(lengths)))
    assert parts[0] == sorted(parts[0])
    assert parts[1] == sorted(parts[1])
    num_chosen = int(len(lengths) * fraction)
    if num_chosen:  # whole documents each
        documents = [{document_of(store, place) for place in part} for part in parts]
        assert not documents[0] & documents[1]
        assert len(documents[1]) == num_chosen
    else:
        assert len(parts[0]) == int(sum(lengths) * (1 - fraction)) if fraction else not parts[1]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.37, 0.5])
def test_validation_is_a_fair_share(counting_store: MakeStore, fraction: float) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, size=20_000).tolist()
    train, val = split_store(counting_store(lengths), fraction)
    assert val.num_tokens / sum(lengths) == pytest.approx(fraction, rel=0.1)
    assert train.num_tokens + val.num_tokens == sum(lengths)
    thirds = np.histogram(val.spans[:, 0], bins=3, range=(0, sum(lengths)))[0]
    assert thirds.max() - thirds.min() <= 0.1 * thirds.sum() + 2  # from all of the corpus


@pytest.mark.parametrize("lengths", [[997], [400, 597], [100] * 9 + [97]])
def test_too_few_documents_split_at_a_token(counting_store: MakeStore, lengths: list[int]) -> None:
    train, val = split_store(counting_store(lengths), 0.09)
    border = int(997 * (1 - 0.09))
    assert train.spans.tolist() == [[0, border]]
    assert val.spans.tolist() == [[border, 997]]


def test_nothing_is_split_off(counting_store: MakeStore) -> None:
    train, val = split_store(counting_store([5] * 100), 0.0)
    assert (train.num_tokens, val.num_tokens) == (500, 0)


def test_split_of_a_store_on_disk(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    documents = [Piece(c * 3, True) for c in "abcdefghij"]
    store = open_or_build(tmp_path / "a", lambda: documents, byte_tokenizer)
    train, val = split_store(store, 0.2)
    texts = [byte_tokenizer.decode(stream.read(0, 99)) for stream in (train, val)]
    found = [text.removesuffix("<|endoftext|>").split("<|endoftext|>") for text in texts]
    assert sorted(found[0] + found[1]) == [piece.text for piece in documents]
    assert len(found[1]) == 2


@settings(deadline=None)
@given(
    data=st.data(),
    lengths=LENGTHS,
    block_size=st.integers(1, 15),
    isolate=st.booleans(),
)
def test_rows_are_the_naive_ones(
    counting_store: MakeStore,
    data: st.DataObject,
    lengths: list[int],
    block_size: int,
    isolate: bool,
) -> None:
    store = counting_store(lengths)
    spans = data.draw(spans_within(sum(lengths)))
    tokens = [i for a, b in spans for i in range(a, b)]
    starts = data.draw(st.lists(st.integers(0, len(tokens) + 20), min_size=1, max_size=4))
    batch = pack_rows(stream_of(store, spans), np.array(starts), block_size, isolate)
    assert set(batch) == {"input_ids", "targets"} | ({"document_ids"} if isolate else set())
    for name, tensor in batch.items():
        assert tensor.shape == (len(starts), block_size), name
        assert tensor.dtype == torch.int64, name
    for row, start in enumerate(starts):
        for t in range(block_size):
            here, after = start + t, start + t + 1
            assert batch["input_ids"][row, t] == (tokens[here] if here < len(tokens) else 0)
            expected = tokens[after] if after < len(tokens) else IGNORE_INDEX
            if isolate and here < len(tokens):
                assert batch["document_ids"][row, t] == document_of(store, tokens[here])
                if after < len(tokens) and document_of(store, tokens[here]) != document_of(
                    store, tokens[after]
                ):
                    expected = IGNORE_INDEX
            assert batch["targets"][row, t] == expected


def test_targets_are_shifted_inputs(counting_store: MakeStore) -> None:
    stream = stream_of(counting_store([30]), [(0, 30)])
    batch = pack_rows(stream, np.array([0, 7]), block_size=5, isolate_documents=False)
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]]
    assert batch["targets"].tolist() == [[1, 2, 3, 4, 5], [8, 9, 10, 11, 12]]


def test_no_loss_on_guessing_the_next_document(counting_store: MakeStore) -> None:
    stream = stream_of(counting_store([3, 4, 9]), [(0, 16)])
    batch = pack_rows(stream, np.array([0]), block_size=8, isolate_documents=True)
    assert batch["document_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1, 2]]
    assert batch["targets"].tolist() == [[1, 2, IGNORE_INDEX, 4, 5, 6, IGNORE_INDEX, 8]]


def test_a_short_row_is_filled_without_targets(counting_store: MakeStore) -> None:
    stream = stream_of(counting_store([6]), [(2, 6)])
    batch = pack_rows(stream, np.array([2, 4]), block_size=4, isolate_documents=True)
    gap = IGNORE_INDEX
    assert batch["input_ids"].tolist() == [[4, 5, 0, 0], [0, 0, 0, 0]]
    assert batch["targets"].tolist() == [[5, gap, gap, gap], [gap] * 4]

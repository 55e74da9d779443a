"""Rows read back from batches, as the model gets them, and what looks wrong with them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from lit_gpt_kit.data.row_loader import FILLER
from lit_gpt_kit.data.token_rows import PADDING_ID
from lit_gpt_kit.model.loss import IGNORE_INDEX


@dataclass(frozen=True)
class Token:
    """A token that the model reads, or is to guess."""

    id: int
    is_learned: bool
    """Loss falls on it."""


@dataclass(frozen=True)
class InspectedRow:
    """A row of a batch.

    Attributes:
        documents: its tokens, by document; what pads the row is left out.
        num_positions: how long it is, padding included.
        label: its label, or labels, where it has any.
    """

    documents: tuple[tuple[Token, ...], ...]
    num_positions: int
    label: Any = None

    @property
    def num_tokens(self) -> int:
        """Tokens of all its documents."""
        return sum(map(len, self.documents))

    @property
    def num_learned(self) -> int:
        """Tokens on which loss falls."""
        return sum(token.is_learned for document in self.documents for token in document)


@dataclass
class Findings:
    """What rows have in common, and where something looks wrong.

    Attributes:
        lengths: of every document, in tokens.
        num_rows: how many rows were looked at.
        num_positions: their lengths together, padding included.
        num_learned: tokens on which loss falls.
        suspects: for each kind of trouble the numbers of the rows that have it, in the order in
            which they were looked at, from 1.
    """

    lengths: list[int] = field(default_factory=list)
    num_rows: int = 0
    num_positions: int = 0
    num_learned: int = 0
    suspects: dict[str, list[int]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """All tokens that were looked at."""
        return sum(self.lengths)


NO_LOSS = "no loss falls on it: nothing is learned from it"
CUT = "its answer is cut off at block_size; raise block_size, or leave such rows out"
NO_END = (
    "its answer ends with no token that ends a turn, so the model never learns to stop; use a "
    "chat template that writes one"
)
TWO_BEGINS = (
    "it begins with the begin token twice; let the template or the tokenizer write it, not both"
)


def read_rows_of(batch: Mapping[str, Any]) -> Iterator[InspectedRow]:
    """The rows of a batch of one of our data modules, or of one like theirs.

    The token behind a document's last one is there as a target alone; it is put back.

    Args:
        batch: `input_ids`, and `targets` with perhaps `document_ids`, or `labels` with perhaps
            `last_token`.
    """
    input_ids = batch["input_ids"].tolist()
    shape = len(input_ids[0])
    nothing = [[IGNORE_INDEX] * shape] * len(input_ids)
    targets = batch["targets"].tolist() if "targets" in batch else nothing
    documents = batch["document_ids"].tolist() if "document_ids" in batch else None
    last = batch["last_token"].tolist() if "last_token" in batch else None
    labels = batch["labels"].tolist() if "labels" in batch else [None] * len(input_ids)
    numbers = batch["row"].tolist() if "row" in batch else [0] * len(input_ids)
    for row, (ids, wanted, label) in enumerate(zip(input_ids, targets, labels, strict=True)):
        if numbers[row] == FILLER:
            continue
        borders = [0] * shape if documents is None else documents[row]
        if last is not None:
            end = last[row] + 1
        elif documents is not None:
            end = next((t for t, d in enumerate(borders) if d == FILLER), shape)
        else:
            end = _end_of_tokens(ids, wanted)
        yield InspectedRow(tuple(_documents(ids[:end], wanted, borders)), shape, label)


def _end_of_tokens(ids: Sequence[int], targets: Sequence[int]) -> int:
    places = (
        place
        for place in reversed(range(len(ids)))
        if ids[place] != PADDING_ID or targets[place] != IGNORE_INDEX
    )
    return next(places, -1) + 1


def _documents(
    ids: Sequence[int], targets: Sequence[int], borders: Sequence[int]
) -> Iterator[tuple[Token, ...]]:
    for _, places in groupby(range(len(ids)), key=lambda place: borders[place]):
        document = list(places)
        tokens = [Token(ids[document[0]], is_learned=False)]
        for place, following in pairwise(document):
            tokens.append(Token(ids[following], targets[place] != IGNORE_INDEX))
        if targets[document[-1]] != IGNORE_INDEX:
            tokens.append(Token(targets[document[-1]], is_learned=True))
        yield tuple(tokens)


def look_at(
    rows: Iterable[InspectedRow],
    begin_id: int | None = None,
    end_ids: Collection[int] | None = None,
    block_size: int | None = None,
) -> Findings:
    """Count tokens, and find rows that look wrong.

    Args:
        rows: the rows.
        begin_id: the token that a text begins with, where there is one.
        end_ids: the tokens that end an answer; None where rows are no conversations.
        block_size: where conversations are cut.
    """
    findings = Findings()
    for number, row in enumerate(rows, start=1):
        findings.num_rows = number
        findings.num_positions += row.num_positions
        findings.num_learned += row.num_learned
        for document in row.documents:
            findings.lengths.append(len(document))
            for trouble in _troubles(document, row.label, begin_id, end_ids, block_size):
                found = findings.suspects.setdefault(trouble, [])
                if found[-1:] != [number]:
                    found.append(number)
    return findings


def _troubles(
    document: Sequence[Token],
    label: Any,
    begin_id: int | None,
    end_ids: Collection[int] | None,
    block_size: int | None,
) -> Iterator[str]:
    if label is None and not any(token.is_learned for token in document):
        yield NO_LOSS
    if begin_id is not None and [token.id for token in document[:2]] == [begin_id] * 2:
        yield TWO_BEGINS
    if end_ids is None:
        return
    learned = [token for token in document if token.is_learned]
    if learned and learned[-1].id not in end_ids:
        is_cut = block_size is not None and len(document) > block_size
        yield CUT if is_cut else NO_END

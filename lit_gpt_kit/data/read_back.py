"""Rows read back from batches, token by token, as the model gets them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from typing import Any, NamedTuple

from lit_gpt_kit.data.row_loader import FILLER, RowTrainLoader
from lit_gpt_kit.data.token_rows import PADDING_ID
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.loss import IGNORE_INDEX

KNOWN = ("input_ids", "targets", "labels", "document_ids", "last_token", "attention_mask", "row")
"""What of a batch says something about its rows."""


class Token(NamedTuple):
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
        num_padding: how much of that is padding.
        label: its label, or labels, where it has any.
    """

    documents: tuple[tuple[Token, ...], ...]
    num_positions: int
    num_padding: int
    label: Any = None

    @property
    def num_tokens(self) -> int:
        """Tokens of all its documents."""
        return sum(map(len, self.documents))

    @property
    def num_learned(self) -> int:
        """Tokens on which loss falls."""
        return sum(token.is_learned for document in self.documents for token in document)


def rows_of_an_epoch(loader: Any) -> Iterator[InspectedRow]:
    """The rows of an epoch of training, each once, in the order in which training reads them.

    Args:
        loader: of training; one without a length is read for as long as it goes on.

    Raises:
        InputError: its batches are not of the kinds that `read_rows_of` knows.
    """
    if not isinstance(loader, RowTrainLoader):
        try:
            num_batches = len(loader)
        except TypeError:  # torch's for a data set that is a stream
            num_batches = None
        for batch in islice(loader, num_batches):
            yield from read_rows_of(batch)
        return
    seen: set[int] = set()
    for number in range(len(loader)):
        keys = loader.rows(number).tolist()
        for key, row in zip(keys, read_rows_of(loader.batch(number)), strict=True):
            if key not in seen:  # where rows do not fill the last step, some are read twice
                seen.add(key)
                yield row


def read_rows_of(batch: Mapping[str, Any]) -> Iterator[InspectedRow]:
    """The rows of a batch of one of our data modules, or of one like theirs.

    The token behind a document's last one is there as a target alone; it is put back.

    Args:
        batch: `input_ids`, and `targets` with perhaps `document_ids`, or `labels` with perhaps
            `last_token`; or as transformers has them, `labels` of each token, not shifted, and
            `attention_mask`.

    Raises:
        InputError: there are no `input_ids`.
    """
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        found = f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise InputError(
            f"a batch is a {type(batch).__name__}{found}; what can be shown is a dict with "
            "input_ids, and with targets or labels"
        )
    values = {name: batch[name].tolist() for name in KNOWN if name in batch}
    num_rows, width = batch["input_ids"].shape
    of_tokens = "labels" in values and "last_token" not in values
    if of_tokens and batch["labels"].shape == batch["input_ids"].shape:
        values["targets"] = [[*row[1:], IGNORE_INDEX] for row in values.pop("labels")]
    for number in range(num_rows):
        row = {name: rows[number] for name, rows in values.items()}
        if row.get("row") != FILLER:
            places = _places_of_tokens(row)
            documents = tuple(_documents(row, places))
            yield InspectedRow(documents, width, width - len(places), row.get("labels"))


def _places_of_tokens(row: Mapping[str, Any]) -> Sequence[int]:
    """Where in a row there is no padding."""
    everywhere = range(len(row["input_ids"]))
    if "last_token" in row:
        return everywhere[: row["last_token"] + 1]
    if "document_ids" in row:
        return [place for place in everywhere if row["document_ids"][place] != FILLER]
    if "attention_mask" in row:
        return [place for place in everywhere if row["attention_mask"][place]]
    targets = row.get("targets") or [IGNORE_INDEX] * len(everywhere)
    filled = (
        place
        for place in reversed(everywhere)
        if row["input_ids"][place] != PADDING_ID or targets[place] != IGNORE_INDEX
    )
    return everywhere[: next(filled, -1) + 1]


def _documents(row: Mapping[str, Any], places: Sequence[int]) -> Iterator[tuple[Token, ...]]:
    ids, targets, borders = row["input_ids"], row.get("targets"), row.get("document_ids")
    for _, group in groupby(places, key=lambda place: borders[place] if borders else 0):
        document = list(group)
        wanted = [targets[place] if targets else IGNORE_INDEX for place in document]
        tokens = [Token(ids[document[0]], is_learned=False)]
        for (_, place), target in zip(pairwise(document), wanted, strict=False):
            tokens.append(Token(ids[place], target != IGNORE_INDEX))
        if wanted[-1] != IGNORE_INDEX:
            tokens.append(Token(wanted[-1], is_learned=True))
        yield tuple(tokens)

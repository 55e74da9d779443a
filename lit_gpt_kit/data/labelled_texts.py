"""Labelled texts, tokenised, and batches of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_gpt_kit.data.labels import LabelMap
from lit_gpt_kit.data.row_loader import FILLER
from lit_gpt_kit.data.token_rows import TokenRows


@dataclass(frozen=True)
class LabelledText:
    """A row as it was read.

    Attributes:
        text: what is classified.
        labels: the names of its labels; None where none are asked for.
        place: where it stands.
    """

    text: str
    labels: tuple[str, ...] | None
    place: str


@dataclass(frozen=True)
class Examples:
    """Rows that were read and tokenised.

    Attributes:
        texts: as they were read.
        tokens: their tokens.
        numbers: their places in the file.
    """

    texts: list[LabelledText]
    tokens: TokenRows
    numbers: NDArray[np.int64]

    def select(self, rows: NDArray[np.int64]) -> "Examples":
        """Some of them."""
        tokens = TokenRows.of(self.tokens.row(number) for number in rows)
        return Examples([self.texts[number] for number in rows], tokens, self.numbers[rows])

    def collator(self, labels: LabelMap | None) -> "Collator":
        """What makes batches of them; without a map of labels, batches to predict."""
        if labels is None:
            return Collator(self, None, labels)
        encoded = [labels.encode(row.labels or (), row.place) for row in self.texts]
        return Collator(self, np.stack([*encoded, labels.filler()]), labels)


@dataclass(frozen=True)
class Collator:
    """Row numbers -> a batch.

    Attributes:
        examples: the rows.
        labels: their labels, and behind them those of a row that fills up.
        label_map: which number is which label.
    """

    examples: Examples
    labels: NDArray[np.int64] | None
    label_map: LabelMap | None

    def __call__(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """The batch of `ClassificationDataModule`."""
        tokens = self.examples.tokens
        is_filler = rows == FILLER
        last = np.where(is_filler, 0, tokens.lengths[rows] - 1)
        batch: dict[str, Any] = {
            "input_ids": tokens.pad(rows),
            "last_token": torch.from_numpy(last),
            "row": torch.from_numpy(np.where(is_filler, FILLER, self.examples.numbers[rows])),
        }
        if self.labels is None:
            texts = self.examples.texts
            batch["texts"] = ["" if row == FILLER else texts[row].text for row in rows]
        else:
            batch["labels"] = torch.from_numpy(self.labels[rows])
        return batch

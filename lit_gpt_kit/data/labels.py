"""Labels as people write them, and as numbers that a network learns."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_gpt_kit.data.order import stratified_choice
from lit_gpt_kit.data.rows import Row
from lit_gpt_kit.errors import InputError, did_you_mean

IGNORED_LABEL = -100
"""The label of a row on which nothing depends (PyTorch's own default)."""


def read_labels(row: Row, column: str, separator: str | None) -> tuple[str, ...]:
    """The names of a row's labels: one, or any number where the row holds a list.

    Args:
        row: the row.
        column: where its label stands.
        separator: what parts several labels in a text.

    Raises:
        InputError: the label is empty, or is no text, number or list of them.
    """
    value = row.values[column]
    if separator is not None and isinstance(value, str):
        value = [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, list):
        return tuple(sorted({_name(part, row.place, column) for part in value}))
    return (_name(value, row.place, column),)


def _name(value: Any, place: str, column: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # What pandas writes where a number is missing is no number.
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and isnan(value)):
        raise InputError(
            f"{place}: field '{column}' is no label: {value!r}; use a name or a number"
        )
    name = str(value).strip()
    if not name:
        raise InputError(f"{place}: field '{column}' is empty; a label is a name or a number")
    return name


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, numbers in the order of numbers."""
    found = set(names)
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))  # 1 and 01 are two
    return tuple(sorted(found))


@dataclass(frozen=True)
class LabelMap:
    """Which label is which number.

    Attributes:
        names: the labels, in the order of their numbers.
        is_multi_label: a row may have any number of them.
    """

    names: tuple[str, ...]
    is_multi_label: bool

    def encode(self, labels: Sequence[str], place: str) -> NDArray[np.int64]:
        """A row's labels: their number, or 0 and 1 for each label there is.

        Raises:
            InputError: a label that was not seen in training.
        """
        for label in labels:
            if label not in self.names:
                raise InputError(
                    f"{place}: label '{label}' was not seen in training"
                    f"{did_you_mean(label, self.names)}"
                )
        if self.is_multi_label:
            return np.array([name in labels for name in self.names], dtype=np.int64)
        if len(labels) != 1:
            raise InputError(
                f"{place}: {len(labels)} labels ({', '.join(labels)}) where every row of the "
                "training data has one"
            )
        return np.array(self.names.index(labels[0]), dtype=np.int64)

    def filler(self) -> NDArray[np.int64]:
        """The labels of a row on which nothing depends."""
        shape = (len(self.names),) if self.is_multi_label else ()
        return np.full(shape, IGNORED_LABEL, dtype=np.int64)


def split_by_label(
    labels: Sequence[tuple[str, ...]], val_fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to validate on, `val_fraction` of those of each label.

    A row with several labels counts for the rarest, since few rows may have the very same ones
    (Sechidis et al. 2011). Which rows are held out does not depend on any seed. Every label has
    rows to train on.
    """
    counts = Counter(name for names in labels for name in names)
    groups: dict[str | None, list[int]] = {}
    for number, names in enumerate(labels):
        rarest = min(names, key=lambda name: (counts[name], name), default=None)
        groups.setdefault(rarest, []).append(number)
    held_out = [
        np.array(rows, dtype=np.int64)[
            stratified_choice(len(rows), _share(len(rows), val_fraction))
        ]
        for rows in groups.values()
    ]
    val = np.concatenate(held_out) if held_out else np.zeros(0, dtype=np.int64)
    left = counts - Counter(name for number in val for name in labels[number])
    val = np.sort(val[[left.keys() >= set(labels[number]) for number in val]])
    return np.setdiff1d(np.arange(len(labels)), val), val


def _share(num_rows: int, fraction: float) -> float:
    """The fraction that makes the nearest whole number of rows, but not all of them."""
    wanted = min(round(num_rows * fraction), num_rows - 1)
    return (wanted + 0.5) / num_rows if wanted > 0 else 0.0

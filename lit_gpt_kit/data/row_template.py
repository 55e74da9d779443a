"""A question and its answer, written from whatever columns a file has."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.tokenization.turns import EmptyTextError

FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
"""A brace that is meant, a column, or a brace with nothing to do."""


@dataclass(frozen=True)
class RowTemplate:
    """How a row becomes a question and its answer.

    In each text `{name}` is replaced by what the row has in the column of that name; `{{` and `}}`
    are braces.
    """

    prompt: str
    """What the user says, such as "Translate to French: {English}"."""
    completion: str
    """What the assistant is to answer, such as "{French}"."""
    system: str | None = None
    """What the model is told before everything else."""

    def __post_init__(self) -> None:
        """Refuse texts that cannot be filled.

        Raises:
            InputError: naming the text and the rule.
        """
        for name, text in self._texts().items():
            for field in FIELD.finditer(text):
                if field[0] in ("{", "}"):
                    raise InputError(
                        f"{name}={text!r} has a {field[0]!r} that is no part of a {{column}}; "
                        f"write {2 * field[0]!r} for the character"
                    )
        if not _columns(self.completion):
            raise InputError(
                f"completion={self.completion!r} names no {{column}}, so every answer is the same"
            )

    @property
    def columns(self) -> list[str]:
        """The columns that a row must have, in the order in which they are named."""
        found = (column for text in self._texts().values() for column in _columns(text))
        return list(dict.fromkeys(found))

    def fill(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The texts of a row, by `system`, `prompt` and `completion`.

        Raises:
            InputError: the row lacks a column, or holds neither text nor number there.
        """
        cells = {column: _cell(values, column) for column in self.columns}
        # In one pass, so that what a column holds is never looked at for fields.
        return {
            name: FIELD.sub(lambda field: cells[field[1]] if field[1] else field[0][0], text)
            for name, text in self._texts().items()
        }

    def _texts(self) -> dict[str, str]:
        texts = {"system": self.system, "prompt": self.prompt, "completion": self.completion}
        return {name: text for name, text in texts.items() if text is not None}


def _columns(text: str) -> list[str]:
    return [field[1] for field in FIELD.finditer(text) if field[1]]


def cell_text(column: str, value: Any) -> str:
    """What a column holds, as text.

    Raises:
        EmptyTextError: it holds nothing.
        InputError: it is neither text nor number.
    """
    if value is None:
        raise EmptyTextError(f"'{column}' is empty")
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InputError(f"'{column}' holds neither text nor number: {value!r:.60}")


def _cell(values: Mapping[str, Any], column: str) -> str:
    if column not in values:
        there = ", ".join(f"'{name}'" for name in values) or "none"
        near = did_you_mean(column, values) if values else ""
        hint = near if "did you mean" in near else ""
        raise InputError(f"no column '{column}'; columns there: {there}{hint}")
    return cell_text(column, values[column])

"""Rows of the shapes in which people keep instructions, as conversations."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_gpt_kit.data.row_template import RowTemplate, cell_text
from lit_gpt_kit.data.rows import Row
from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.tokenization.chat_template import Message
from lit_gpt_kit.tokenization.turns import EmptyTextError, check_turns

Values = Mapping[str, Any]
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
"""What ShareGPT's files and their like call a role."""
NO_INPUT = ("", "noinput")
"""What stands for no input in files of Self-Instruct's kind, in lower case, without <> and ."""


@dataclass(frozen=True)
class Conversation:
    """What was said, and what might have been said at the end."""

    messages: list[Message]
    """Oldest first; the assistant answers at least once."""
    other_answers: tuple[str, ...] = ()
    """Answers that would be as right as the last one."""

    @property
    def prompt(self) -> list[Message]:
        """What the last answer answers."""
        return self.messages[: self._last_answer]

    @property
    def references(self) -> tuple[str, ...]:
        """All right answers to the prompt, the one that was given first."""
        return (self.messages[self._last_answer]["content"], *self.other_answers)

    @property
    def _last_answer(self) -> int:
        roles = [message["role"] for message in self.messages]
        return len(roles) - 1 - roles[::-1].index("assistant")


@dataclass(frozen=True)
class Shape:
    """A way to keep conversations in rows."""

    keys: tuple[tuple[str, ...], ...]
    """Of each group a row has one key or more."""
    read: Callable[[Values], Conversation]

    def fits(self, values: Values) -> bool:
        """Whether a row has the keys of this shape."""
        return all(any(key in values for key in group) for group in self.keys)

    def __str__(self) -> str:
        return " + ".join("/".join(group) for group in self.keys)


def read_conversation(row: Row, shape: str | RowTemplate | None = None) -> Conversation:
    """The conversation in a row.

    Args:
        row: what a file holds, and where.
        shape: one of `SHAPES`, or how the row's columns make question and answer; None looks at
            the keys of the row.

    Raises:
        EmptyTextError: a message is empty.
        InputError: naming the row's place and its keys, where it has another shape, or what is
            wrong in it.
    """
    try:
        if isinstance(shape, RowTemplate):
            texts = shape.fill(row.values)
            conversation = _exchange(texts, texts["prompt"], [texts["completion"]])
        else:
            conversation = _choose_shape(shape, row.values).read(row.values)
        check_turns(conversation.messages)
    except InputError as error:
        raise type(error)(f"{row.place}: {error}") from None
    return conversation


def _choose_shape(name: str | None, values: Values) -> Shape:
    there = ", ".join(f"'{key}'" for key in values) or "none"
    if name is None:
        fitting = next((shape for shape in SHAPES.values() if shape.fits(values)), None)
        if fitting is None:
            known = ", ".join(f"{name} ({shape})" for name, shape in SHAPES.items())
            raise InputError(
                f"the row has no known shape; keys there: {there}; known: {known}; or write "
                "question and answer as a template of the columns"
            )
        return fitting
    if name not in SHAPES:
        raise InputError(f"shape={name!r} is unknown{did_you_mean(name, SHAPES)}")
    if not SHAPES[name].fits(values):
        raise InputError(f"the shape {name} needs {SHAPES[name]}; keys there: {there}")
    return SHAPES[name]


def _read_turns(key: str) -> Callable[[Values], Conversation]:
    def read(values: Values) -> Conversation:
        turns = values[key]
        if isinstance(turns, str):  # a cell of a CSV file
            try:
                turns = json.loads(turns)
            except (ValueError, RecursionError) as error:
                raise InputError(f"'{key}' holds no messages: {error}") from None
        if not isinstance(turns, (list, tuple)):
            raise InputError(f"'{key}' holds no list of messages but a {type(turns).__name__}")
        messages = [_message(number, turn) for number, turn in enumerate(turns, start=1)]
        says_nothing = messages[:1] in ([_system("")], [_system(None)])
        return Conversation(messages[1:] if says_nothing else messages)

    return read


def _message(number: int, turn: Any) -> Message:
    """A message, in OpenAI's words (role, content) or ShareGPT's (from, value)."""
    if isinstance(turn, Mapping):
        for role, content in (("role", "content"), ("from", "value")):
            if role in turn and content in turn:
                speaker = str(turn[role])
                return {"role": SPEAKERS.get(speaker, speaker), "content": turn[content]}
    keys = ", ".join(f"'{key}'" for key in turn) if isinstance(turn, Mapping) else "none"
    raise InputError(
        f"message {number} has neither role and content nor from and value; keys there: {keys}"
    )


def _read_alpaca(values: Values) -> Conversation:
    question, given = cell_text("instruction", values["instruction"]), _optional(values, "input")
    if given.strip().strip("<>.").lower() not in NO_INPUT:
        question = f"{question}\n\n{given}"
    return _exchange(values, question, [values.get("output", values.get("response"))])


def _read_self_instruct(values: Values) -> Conversation:
    instances = values["instances"]
    if not (isinstance(instances, (list, tuple)) and len(instances) == 1):
        raise InputError("'instances' is no list of exactly one instance; write a row for each")
    if not isinstance(instances[0], Mapping):
        raise InputError("the instance is no object with 'input' and 'output'")
    return _read_alpaca({**values, **instances[0]})


def _read_prompt(values: Values) -> Conversation:
    answer = values.get("completion", values.get("response"))
    return _exchange(values, cell_text("prompt", values["prompt"]), [answer])


def _read_question(values: Values) -> Conversation:
    """A question, perhaps behind the text that answers it; SQuAD's answers, or one."""
    question = cell_text("question", values["question"])
    if context := _optional(values, "context"):
        question = f"{context}\n\n{question}"
    answers = values.get("answer", values.get("answers"))
    if isinstance(answers, Mapping):  # how Hugging Face's files keep SQuAD
        answers = answers.get("text")
    if not isinstance(answers, (list, tuple)):
        answers = [answers]
    if not answers:
        raise EmptyTextError("the question has no answer")
    return _exchange(
        values, question, [a.get("text") if isinstance(a, Mapping) else a for a in answers]
    )


def _exchange(values: Values, question: str, answers: Sequence[Any]) -> Conversation:
    """A question and its first answer, under the row's system text where it has one."""
    first, *others = dict.fromkeys(cell_text("answer", answer) for answer in answers)
    system = _optional(values, "system")
    messages = [_system(system)] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": first}]
    return Conversation(messages, tuple(others))


def _optional(values: Values, column: str) -> str:
    value = values.get(column)
    return "" if value is None else cell_text(column, value)


def _system(text: Any) -> Message:
    return {"role": "system", "content": text}


SHAPES = {
    "messages": Shape((("messages",),), _read_turns("messages")),
    "sharegpt": Shape((("conversations",),), _read_turns("conversations")),
    "alpaca": Shape((("instruction",), ("output", "response")), _read_alpaca),
    "self_instruct": Shape((("instruction",), ("instances",)), _read_self_instruct),
    "prompt_completion": Shape((("prompt",), ("completion", "response")), _read_prompt),
    "question_answer": Shape((("question",), ("answer", "answers")), _read_question),
}
"""The shapes that are known, in the order in which they are looked for."""

"""Where the assistant's answers stand in the text of a conversation.

A template does not say so, but its renderings do: an answer begins where the prompt for it ends,
and ends where the conversation that stops with it ends. Where a template goes back on what it wrote
(Qwen 3 drops the thinking of earlier turns), a mark is put in the place of the answer, and what
stands around the mark must stand around the answer.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, get_args

from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.tokenization.chat_template import Message, render_chat, turn_ends
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

LossOn = Literal["every", "last"]
"""Which answers of a conversation are learned."""
Span = tuple[int, int]
"""First character, and the first one behind."""

# Characters for private use: no text has them, and no template takes them away.
STAND_IN, MARK = "\ue000{}\ue001", "\ue000answer\ue001"
STAND_INS = re.compile(STAND_IN.format(r"(\d+)"))


class AnswerFinder:
    """Finds the answers in the conversations of one tokenizer.

    Where they stand is worked out once for each order of roles, with contents that stand in for the
    real ones. The rendering of a real conversation then shows whether the layout is its own.

    Args:
        tokenizer: says how a conversation is laid out.
        loss_on: "every" answer, or the "last" one.

    Raises:
        InputError: `loss_on` is neither.
    """

    def __init__(self, tokenizer: Tokenizer, loss_on: LossOn) -> None:
        if loss_on not in (known := get_args(LossOn)):
            raise InputError(f"loss_on={loss_on!r} is unknown{did_you_mean(loss_on, known)}")
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        ends = "|".join(map(re.escape, turn_ends(tokenizer))) or r"(?!)"
        self._end_inside = re.compile(rf"({ends})\s*\Z")
        self._end_behind = re.compile(rf"\s*(?:{ends})")
        self._layouts: dict[tuple[str, ...], _Layout | None] = {}

    def find(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text of a conversation, and what of it the model is to write.

        That is an answer, what the template puts between prompt and answer, and what ends the
        answer's turn; not the line break behind that.

        Raises:
            InputError: the template refuses the conversation, or its renderings do not show where
                an answer stands.
        """
        text = self._render(messages)
        roles = tuple(message["role"] for message in messages)
        if roles not in self._layouts:
            self._layouts[roles] = self._lay_out(roles)
        layout = self._layouts[roles]
        spans = layout.fit(text, [message["content"] for message in messages]) if layout else None
        return text, self._spans(text, messages) if spans is None else spans

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        return render_chat(self._tokenizer, messages, add_generation_prompt)

    def _lay_out(self, roles: tuple[str, ...]) -> "_Layout | None":
        messages = [
            {"role": role, "content": STAND_IN.format(number)} for number, role in enumerate(roles)
        ]
        try:
            text = self._render(messages)
            prompts = (self._render(messages[:n], True) for n in self._answers(messages))
            # One that begins the thinking fits to some real answers and not to others.
            if not all(text.startswith(prompt) for prompt in prompts):
                return None
            return _Layout(text, self._spans(text, messages))
        except InputError:  # the template wants something of the contents
            return None

    def _answers(self, messages: Sequence[Message]) -> list[int]:
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        return answers if self._loss_on == "every" else answers[-1:]

    def _spans(self, text: str, messages: Sequence[Message]) -> list[Span]:
        return [self._span(text, messages, index) for index in self._answers(messages)]

    def _span(self, text: str, messages: Sequence[Message], index: int) -> Span:
        prompt = self._render(messages[:index], add_generation_prompt=True)
        through = self._render(messages[: index + 1])
        begins = text.startswith(prompt)
        if begins and len(through) > len(prompt) and text.startswith(through):
            end = self._end_inside.search(text, len(prompt), len(through))
            return len(prompt), end.end(1) if end else self._end_of_turn(text, len(through))
        marked = [*messages[:index], {**messages[index], "content": MARK}, *messages[index + 1 :]]
        before, *behind = self._render(marked).split(MARK)
        if len(behind) != 1 or not _stands_between(text, before, behind[0]):
            raise InputError(
                f"the chat template does not show where message {index + 1}, an answer, stands in "
                "the conversation; let loss fall on the last answer alone, or use another template"
            )
        end_of_words = len(text) - len(behind[0])
        start = len(prompt) if begins and len(prompt) <= end_of_words else len(before)
        return start, self._end_of_turn(text, end_of_words)

    def _end_of_turn(self, text: str, end_of_words: int) -> int:
        end = self._end_behind.match(text, end_of_words)
        return end.end() if end else end_of_words


class _Layout:
    """A conversation of stand-ins and its spans, to be filled with contents."""

    def __init__(self, text: str, spans: list[Span]) -> None:
        stand_ins = list(STAND_INS.finditer(text))
        self._pieces = STAND_INS.split(text)
        self._order = [int(stand_in[1]) for stand_in in stand_ins]
        self._widths = [len(stand_in[0]) for stand_in in stand_ins]
        self._ends = [stand_in.end() for stand_in in stand_ins]
        self._spans = spans

    def fit(self, text: str, contents: Sequence[str]) -> list[Span] | None:
        """The spans in `text`, if it is this layout filled with `contents`."""
        filling = [contents[number] for number in self._order]
        pieces = list(self._pieces)
        pieces[1::2] = filling  # split leaves the stand-ins' numbers there
        if "".join(pieces) != text:
            return None
        growth = (len(a) - b for a, b in zip(filling, self._widths, strict=True))
        shifts = list(accumulate(growth, initial=0))
        return [
            (
                start + shifts[bisect_right(self._ends, start)],
                end + shifts[bisect_right(self._ends, end)],
            )
            for start, end in self._spans
        ]


def _stands_between(text: str, before: str, behind: str) -> bool:
    long_enough = len(before) + len(behind) <= len(text)
    return long_enough and text.startswith(before) and text.endswith(behind)

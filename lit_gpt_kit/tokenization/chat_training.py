"""A conversation as the tokens that a model learns from, and which of them it is to write."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.answer_spans import AnswerFinder, LossOn, Span
from lit_gpt_kit.tokenization.chat_template import Message, chat_begin_ids
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.turns import check_turns


class TrainingChat(NamedTuple):
    """The tokens of a conversation."""

    ids: list[int]
    is_target: list[bool]
    """For each token, whether it is the assistant's, to be written by the model."""


def encode_training_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], loss_on: LossOn = "every"
) -> TrainingChat:
    """The tokens of one conversation; see `encode_training_chats`.

    Raises:
        InputError: as there.
    """
    return encode_training_chats(tokenizer, [messages], loss_on)[0]


def encode_training_chats(
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    loss_on: LossOn = "every",
    places: Sequence[str] | None = None,
) -> list[TrainingChat]:
    """The tokens of many conversations, as `encode_chat` makes them when they are generated from.

    The model is to write an answer and the token that ends its turn. A token that begins before the
    answer, because a tokenizer joins the end of the prompt with the answer's first characters, is
    not learned: no model can write it behind the prompt. One that ends behind the turn is learned.

    Args:
        tokenizer: its chat template lays out the conversations; without one they are ChatML.
        conversations: what was said, oldest first.
        loss_on: "every" answer is learned, or the "last" one of each conversation.
        places: where each conversation comes from, for errors.

    Raises:
        InputError: roles are out of order, a content is empty, nobody answers, the template is
            broken, refuses a conversation or hides where its answers stand.
    """
    finder = AnswerFinder(tokenizer, loss_on)
    found = []
    for number, messages in enumerate(conversations):
        try:
            check_turns(messages)
            found.append(finder.find(messages))
        except InputError as error:
            if places is None:
                raise
            raise type(error)(f"{places[number]}: {error}") from None
    begin_ids = chat_begin_ids(tokenizer)
    encodings = tokenizer.encode_with_offsets([text for text, _ in found])
    return [
        TrainingChat(
            begin_ids + encoding.ids,
            [False] * len(begin_ids) + _begin_in(spans, [start for start, _ in encoding.offsets]),
        )
        for encoding, (_, spans) in zip(encodings, found, strict=True)
    ]


def _begin_in(spans: list[Span], starts: list[int]) -> list[bool]:
    """Which of the tokens that start there, in rising order, do so inside a span."""
    inside = [False] * len(starts)
    for start, end in spans:
        first, behind = bisect_left(starts, start), bisect_left(starts, end)
        inside[first:behind] = [True] * (behind - first)
    return inside

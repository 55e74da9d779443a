"""Which conversations a model can learn from, and what is said of the others."""

from typing import Any

import pytest

from lit_gpt_kit import InputError
from lit_gpt_kit.tokenization.turns import EmptyTextError, check_turns


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_turns_that_are_fine() -> None:
    check_turns(said(("user", "a"), ("assistant", "b")))
    check_turns(said(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")))


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (
            said(("assistant", "a")),
            "message 1 is from the assistant, but it is the user's turn; user and assistant take "
            "turns, the user first",
        ),
        (
            said(("user", "a"), ("assistant", "b"), ("assistant", "c")),
            "message 3 is from the assistant, but it is the user's turn; user and assistant take "
            "turns, the user first",
        ),
        (
            said(("user", "a"), ("user", "b")),
            "message 2 is from the user, but it is the assistant's turn; user and assistant take "
            "turns, the user first",
        ),
        (
            said(("user", "a"), ("system", "b")),
            "message 2 is from the system, which speaks first or not at all",
        ),
        (said(("usr", "a")), "message 1 has the role 'usr'; did you mean 'user'?"),
        (said(("tool", "a")), "message 1 has the role 'tool'; known: assistant, system, user"),
        (
            said(("user", "a"), ("assistant", None)),
            "message 2, from the assistant, is no text but of type NoneType",
        ),
        (
            said(("user", "a"), ("assistant", "b\udc00")),
            "message 2, from the assistant, holds half a character (\\udc00); remove it",
        ),
        (said(("user", "a")), "no message is from the assistant, so there is nothing to learn"),
        ([], "no message is from the assistant, so there is nothing to learn"),
    ],
)
def test_turns_that_are_not(messages: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        check_turns(messages)
    assert str(caught.value) == complaint
    assert not isinstance(caught.value, EmptyTextError)


def test_an_empty_text_is_an_error_of_its_own() -> None:
    with pytest.raises(EmptyTextError, match=r"^message 2, from the assistant, is empty$"):
        check_turns(said(("user", "a"), ("assistant", " \n")))

"""What a conversation must be, whatever the template, before a model can learn from it."""

from collections.abc import Sequence

from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.tokenization.chat_template import Message

ROLES = ("system", "user", "assistant")


class EmptyTextError(InputError):
    """A message that says nothing; who reads many rows may leave such a row out, and count it."""


def check_turns(messages: Sequence[Message]) -> None:
    """Refuse a conversation in which user and assistant do not take turns, the user first.

    A system message may stand before all others, and the user may have the last word.

    Raises:
        EmptyTextError: a message is empty.
        InputError: a role is unknown or out of order, a content is no text, nobody answers.
    """
    expected = "user"
    for number, message in enumerate(messages, start=1):
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise InputError(f"message {number} has the role {role!r}{did_you_mean(role, ROLES)}")
        if role == "system":
            if number > 1:
                raise InputError(
                    f"message {number} is from the system, which speaks first or not at all"
                )
        elif role != expected:
            what = f"message {number} is from the {role}, but it is the {expected}'s turn"
            raise InputError(f"{what}; user and assistant take turns, the user first")
        else:
            expected = "assistant" if role == "user" else "user"
        _check_content(f"message {number}, from the {role},", content)
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError("no message is from the assistant, so there is nothing to learn")


def _check_content(name: str, content: object) -> None:
    if not isinstance(content, str):
        raise InputError(f"{name} is no text but of type {type(content).__name__}")
    if not content.strip():
        raise EmptyTextError(f"{name} is empty")
    try:
        content.encode()
    except UnicodeEncodeError as error:  # JSON can spell one half of a surrogate pair
        half = ord(content[error.start])
        raise InputError(f"{name} holds half a character (\\u{half:04x}); remove it") from None

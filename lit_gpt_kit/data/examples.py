"""GenerationExample: a conversation to be answered, and what a good answer is."""

from dataclasses import dataclass

from lit_gpt_kit.tokenization.chat_template import Message


@dataclass(frozen=True)
class GenerationExample:
    """What a model is asked, and the answers that it is measured by."""

    messages: tuple[Message, ...]
    """The conversation before the answer, oldest first."""
    references: tuple[str, ...]
    """Good answers, at least one; the best match counts."""

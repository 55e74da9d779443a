"""A conversation as the text and the tokens that a model was trained to answer."""

from collections.abc import Mapping, Sequence

from lit_gpt_kit.tokenization.tokenizer import Tokenizer

Message = Mapping[str, str]
"""`{"role": ..., "content": ...}`; the roles are system, user and assistant."""

CHATML_START, CHATML_END = "<|im_start|>", "<|im_end|>"
TURN_ENDS = (
    CHATML_END,  # ChatML: Qwen, SmolLM and many more
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",  # Llama 3.1, a turn that calls a tool
    "<|eot|>",  # Llama 4
    "<end_of_turn>",  # Gemma
    "<|end|>",  # Phi 3
    "<|return|>",  # gpt-oss
    "<|end_of_text|>",  # Granite
    "<|END_OF_TURN_TOKEN|>",  # Command R
    "<|assistant_end|>",  # nanochat
    "<|endoftext|>",
    "</s>",
    "### Instruction:",  # Alpaca: the next question, where an answer has no end of its own
)
"""What ends an answer in the templates of the field."""


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True
) -> str:
    """The text of a conversation, laid out by the tokenizer's chat template, else as ChatML.

    Args:
        tokenizer: its `chat_template`, and the begin and end tokens that a template may write.
        messages: what was said, oldest first.
        add_generation_prompt: end with the beginning of the next answer.

    Raises:
        InputError: the template is broken, refuses these messages, or does what it may not.
    """
    if tokenizer.chat_template is None:
        turns = [_chatml_turn(message["role"], message["content"]) for message in messages]
        return "".join(turns) + (f"{CHATML_START}assistant\n" if add_generation_prompt else "")
    # Not above: Jinja takes as long to import as a small command takes to run.
    from lit_gpt_kit.tokenization.sandbox import render

    return render(
        tokenizer.chat_template,
        # Plain copies: a template has no business with the methods of anything else.
        messages=[dict(message) for message in messages],
        add_generation_prompt=add_generation_prompt,
        bos_token=tokenizer.begin_token or "",
        eos_token=tokenizer.end_token or "",
        tools=None,
        documents=None,
    )


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation that the model is to answer.

    Raises:
        InputError: the template is broken, refuses these messages, or does what it may not.
    """
    ids = tokenizer.encode(render_chat(tokenizer, messages), add_special_tokens=False)
    return [*chat_begin_ids(tokenizer), *ids]


def chat_begin_ids(tokenizer: Tokenizer) -> list[int]:
    """What comes before the text of a conversation.

    A template writes the begin token itself; before ChatML comes what every text of this tokenizer
    begins with.
    """
    return [] if tokenizer.chat_template is not None else tokenizer.begin_ids


def chat_end_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end an answer: the end token, and those that end a turn in the template."""
    ids = [tokenizer.backend.token_to_id(end) for end in turn_ends(tokenizer)]
    return sorted({token_id for token_id in ids if token_id is not None})


def chat_stop_texts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The texts that end an answer: what ends a turn in the template, but is no token here.

    This is so in a model trained from scratch, whose tokenizer never heard of ChatML.
    """
    ends = turn_ends(tokenizer)
    return tuple(end for end in ends if tokenizer.backend.token_to_id(end) is None)


def turn_ends(tokenizer: Tokenizer) -> list[str]:
    """What may end an answer, token here or not: the end token, and what the template writes."""
    template = CHATML_END if tokenizer.chat_template is None else tokenizer.chat_template
    ends = [tokenizer.end_token, *(end for end in TURN_ENDS if end in template)]
    return list(dict.fromkeys(end for end in ends if end is not None))


def _chatml_turn(role: str, content: str) -> str:
    return f"{CHATML_START}{role}\n{content}{CHATML_END}\n"

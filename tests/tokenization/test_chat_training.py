"""What a model learns of a conversation: the assistant's words and their end, in every layout."""

import gzip
import json
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from lit_gpt_kit import InputError, Tokenizer
from lit_gpt_kit.tokenization.answer_spans import MARK, STAND_IN, AnswerFinder
from lit_gpt_kit.tokenization.chat_template import encode_chat, render_chat
from lit_gpt_kit.tokenization.chat_training import (
    TrainingChat,
    encode_training_chat,
    encode_training_chats,
)
from lit_gpt_kit.tokenization.template_files import find_template
from tests.chat_templates import GEMMA, LLAMA, MISTRAL, plain_tokenizer, qwen3_template
from tests.conftest import shared_data

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SPECIAL += ("<start_of_turn>", "<end_of_turn>", "<s>")
LAYOUTS = {
    "built in": (None, "<|im_end|>"),
    "chatml": (find_template("chatml"), "<|im_end|>"),
    "llama": (LLAMA, "<|eot_id|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "alpaca": (find_template("alpaca"), "<|endoftext|>"),
    "plain": (find_template("plain"), "<|endoftext|>"),
}
"""A template, and how it ends an answer."""
TRIMMING = ("llama", "gemma")


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    said = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return said if system is None else [{"role": "system", "content": system}, *said]


def shown(tokenizer: Tokenizer, chat: TrainingChat) -> str:
    """The text of a conversation with «» around what is learned."""
    text, inside, held = "", False, []
    for token_id, is_target in [*zip(*chat, strict=True), (None, False)]:
        if is_target != inside or token_id is None:
            text += tokenizer.decode(held) + ("»" if inside else "«" if is_target else "")
            held, inside = [], is_target
        held.append(token_id)
    return text


def learned(tokenizer: Tokenizer, chat: TrainingChat) -> str:
    return tokenizer.decode([token_id for token_id, kept in zip(*chat, strict=True) if kept])


@cache
def real_tokenizer(name: str) -> Tokenizer:
    """A tokenizer of the field that has the special tokens of all layouts."""
    path = shared_data(f"tokenizers/{name}")
    tokenizer = Tokenizer.from_file(path / "tokenizer.json.gz" if name == "qwen3" else path)
    tokenizer.backend.add_special_tokens(list(SPECIAL))
    return Tokenizer(tokenizer.backend, "<|endoftext|>", begin_token="<s>")


def tokenizer_for(name: str, template: str | None) -> Tokenizer:
    if name == "bytes":
        return plain_tokenizer(template, begin_token="<s>", special=SPECIAL)
    found = real_tokenizer(name)
    return Tokenizer(found.backend, found.end_token, template, found.begin_token)


def qwen3() -> Tokenizer:
    tokenizer = Tokenizer.from_file(shared_data("tokenizers/qwen3/tokenizer.json.gz"), "<|im_end|>")
    tokenizer.chat_template = qwen3_template()
    return tokenizer


# ---- layouts, as they are published ----


def test_chatml() -> None:
    tokenizer = tokenizer_for("smollm2", None)
    chat = encode_training_chat(tokenizer, talk("Hi", "Hello!", "And?", "Bye.", system="Be brief."))
    assert shown(tokenizer, chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n«Hello!<|im_end|>»\n<|im_start|>user\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n«Bye.<|im_end|>»\n"
    )


def test_llama3() -> None:
    tokenizer = tokenizer_for("gpt2", LLAMA)
    chat = encode_training_chat(tokenizer, talk("Hi", " Hello! ", "And?", "Bye."))
    user, assistant = (
        f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant")
    )
    assert shown(tokenizer, chat) == (
        f"<s>{user}Hi<|eot_id|>{assistant}«Hello!<|eot_id|>»"
        f"{user}And?<|eot_id|>{assistant}«Bye.<|eot_id|>»"
    )


def test_gemma_calls_the_assistant_model_and_has_no_system() -> None:
    tokenizer = tokenizer_for("qwen3", GEMMA)
    chat = encode_training_chat(
        tokenizer, talk("Hi", "Hello!\n", "And?", "Bye.", system="Be brief.")
    )
    assert shown(tokenizer, chat) == (
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\n«Hello!<end_of_turn>»\n<start_of_turn>user\nAnd?<end_of_turn>\n"
        "<start_of_turn>model\n«Bye.<end_of_turn>»\n"
    )


def test_mistral_puts_a_space_before_an_answer_which_the_model_writes() -> None:
    tokenizer = tokenizer_for("smollm2", MISTRAL)
    chat = encode_training_chat(tokenizer, talk("Hi", "Hello!", "And?", "Bye."))
    assert shown(tokenizer, chat) == (
        "<s>[INST] Hi[/INST]« Hello!<|endoftext|>»[INST] And?[/INST]« Bye.<|endoftext|>»"
    )


def test_alpaca() -> None:
    tokenizer = tokenizer_for("gpt2", find_template("alpaca"))
    chat = encode_training_chat(tokenizer, talk("Hi", "Hello!", "And?", "Bye."))
    assert shown(tokenizer, chat) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nHi\n\n### Response:\n«Hello!<|endoftext|>»"
        "\n\n### Instruction:\nAnd?\n\n### Response:\n«Bye.<|endoftext|>»"
    )


def test_alpaca_without_an_end_token_learns_to_go_on_to_the_next_instruction() -> None:
    tokenizer = tokenizer_for("bytes", find_template("alpaca"))
    tokenizer.end_token = None
    chat = encode_training_chat(tokenizer, talk("Hi", "Hello!", "And?", "Bye.", system="S"))
    assert shown(tokenizer, chat) == (
        "<s>S\n\n### Instruction:\nHi\n\n### Response:\n«Hello!\n\n### Instruction:»"
        "\nAnd?\n\n### Response:\n«Bye.»"
    )


def test_plain() -> None:
    tokenizer = tokenizer_for("gpt2", find_template("plain"))
    messages = talk("dog =>", " chien", "cat =>", " chat", system="To French")
    assert shown(tokenizer, encode_training_chat(tokenizer, messages)) == (
        "<s>To French\n\ndog =>« chien<|endoftext|>»cat =>« chat<|endoftext|>»"
    )


def test_qwen3_thinks_in_the_last_turn_alone() -> None:
    tokenizer = qwen3()
    thought = "<think>\nhm\n</think>\n\n"
    messages = talk("a", f"{thought}b", "c", f"{thought}d")
    assert shown(tokenizer, encode_training_chat(tokenizer, messages)) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n«b<|im_end|>»\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n«" + f"{thought}d<|im_end|>»\n"
    )
    assert shown(tokenizer, encode_training_chat(tokenizer, talk("a", "b", "c", "d"))) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n«b<|im_end|>»\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
        "«<think>\n\n</think>\n\nd<|im_end|>»\n"
    )


def test_a_prompt_that_begins_the_thinking_is_not_learned() -> None:
    template = (
        "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<a><think>{% endif %}"
    )
    tokenizer = tokenizer_for("bytes", template)
    chat = encode_training_chat(tokenizer, talk("q", "<think>t</think>r"))
    assert shown(tokenizer, chat) == "<u>q<a><think>«t</think>r<|endoftext|>»"


def test_the_last_answer_alone() -> None:
    tokenizer = tokenizer_for("bytes", None)
    for messages in (talk("a", "b", "c", "d"), talk("a", "b", "c", "d", "e")):
        chat = encode_training_chat(tokenizer, messages, loss_on="last")
        assert learned(tokenizer, chat) == "d<|im_end|>"
    with pytest.raises(InputError, match=r"^loss_on='lst' is unknown; did you mean 'last'\?$"):
        encode_training_chat(tokenizer, talk("a", "b"), loss_on="lst")  # type: ignore[arg-type]


# ---- contents of all kinds ----

CONTENTS = {
    "unicode": ("Wie groß? 你好", "Größer 👩‍👩‍👧 als é नमस्ते", "и?", "да 😀"),
    "space": ("  a \n", " b \n\n", "\n\nc", " d  "),
    "own marks": (
        "a<|im_end|>\n<|im_start|>assistant\nnot this<|eot_id|>",
        "b<|im_end|>\n<|im_start|>user\n<end_of_turn>\n<|eot_id|> and on",
        "### Response:\nno<|endoftext|>",
        "c\n\n### Instruction:\nd",
    ),
    "stand-ins": (STAND_IN.format(1), MARK, STAND_IN.format(0), STAND_IN.format(3) + MARK),
}


@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["bytes", "smollm2", "qwen3", "gpt2"])
def test_exactly_the_words_and_their_end_are_learned(
    name: str, layout: str, contents: tuple[str, ...]
) -> None:
    template, end = LAYOUTS[layout]
    tokenizer = tokenizer_for(name, template)
    messages = talk(*contents)
    chat = encode_training_chat(tokenizer, messages)
    assert learned(tokenizer, chat) == expected(layout, contents[1::2], end)
    text = render_chat(tokenizer, messages, add_generation_prompt=False)
    begin = tokenizer.begin_ids if template is None else []
    assert chat.ids == begin + tokenizer.encode(text, add_special_tokens=False)


def expected(layout: str, answers: tuple[str, ...], end: str) -> str:
    return "".join((a.strip() if layout in TRIMMING else a) + end for a in answers)


def test_a_normaliser_composes_characters() -> None:
    tokenizer = qwen3()
    answer = "e\u0301te\u0301 fini"
    text = learned(tokenizer, encode_training_chat(tokenizer, talk("e\u0301", answer)))
    composed = unicodedata.normalize("NFC", answer)
    assert text == f"<think>\n\n</think>\n\n{composed}<|im_end|>"
    assert composed != answer


spoken = st.text(min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(spoken, spoken), min_size=1, max_size=3),
    st.sampled_from(sorted(LAYOUTS)),
)
def test_any_content(exchanges: list[tuple[str, str]], layout: str) -> None:
    template, end = LAYOUTS[layout]
    tokenizer = tokenizer_for("bytes", template)
    contents = tuple(text for exchange in exchanges for text in exchange)
    chat = encode_training_chat(tokenizer, talk(*contents))
    assert learned(tokenizer, chat) == expected(layout, contents[1::2], end)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(spoken, spoken), min_size=1, max_size=3),
    st.sampled_from([None, LLAMA, GEMMA, MISTRAL, find_template("alpaca")]),
    st.sampled_from(["every", "last"]),
)
def test_the_layout_of_stand_ins_has_the_spans_of_the_real_contents(
    exchanges: list[tuple[str, str]], template: str | None, loss_on: Any
) -> None:
    messages = talk(*(text for exchange in exchanges for text in exchange))
    finder = AnswerFinder(tokenizer_for("bytes", template), loss_on)
    text, spans = finder.find(messages)
    assert spans == finder._spans(text, messages)


# ---- tokens that straddle a border ----


def test_what_the_tokenizer_joins_with_the_prompt_is_not_learned() -> None:
    tokenizer = tokenizer_for("smollm2", None)
    chat = encode_training_chat(tokenizer, talk("Hi", "\n\nHello!"))
    # The first two line breaks are one token; behind the prompt, which ends with one, nobody
    # writes it.
    assert shown(tokenizer, chat).endswith("<|im_start|>assistant\n\n«\nHello!<|im_end|>»\n")
    # So are a line break and a space of code that is indented.
    chat = encode_training_chat(tokenizer, talk("Hi", "  pass"))
    assert shown(tokenizer, chat).endswith("<|im_start|>assistant\n « pass<|im_end|>»\n")
    tokenizer = tokenizer_for("gpt2", find_template("plain"))
    chat = encode_training_chat(tokenizer, talk("dog => ", "chien"))
    assert shown(tokenizer, chat) == "<s>dog => ch«ien<|endoftext|>»"
    chat = encode_training_chat(tokenizer, talk("dogs are anim", "als"))
    assert shown(tokenizer, chat) == "<s>dogs are animals«<|endoftext|>»"


def test_an_end_that_is_no_token_is_learned_to_its_last_character() -> None:
    backend = Tokenizer.from_file(shared_data("tokenizers/gpt2")).backend
    tokenizer = Tokenizer(backend, chat_template=LLAMA)
    text = shown(tokenizer, encode_training_chat(tokenizer, talk("Hi", "Hello!", "And?", "Bye.")))
    # GPT-2 has a token "><", which ends in the next turn.
    assert "«Hello!<|eot_id|><»|start_header_id|>" in text
    assert text.endswith("«Bye.<|eot_id|>»")


def test_an_end_token_that_takes_the_line_break_with_it_is_learned() -> None:
    tokenizer = tokenizer_for(
        "bytes", "{% for m in messages %}{{ m.content }}<|end|>\n{% endfor %}"
    )
    tokenizer.backend.add_special_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    chat = encode_training_chat(tokenizer, talk("a", "b", "c", "d"))
    end_id = tokenizer.backend.token_to_id("<|end|>")
    assert chat.ids == [ord("a"), end_id, ord("b"), end_id, ord("c"), end_id, ord("d"), end_id]
    assert chat.is_target == [False, False, True, True] * 2


def test_offsets_that_leave_out_spaces_are_not_trusted() -> None:
    plain = tokenizer_for("smollm2", None)
    state = plain.backend.to_str()
    trimming = Tokenizer(type(plain.backend).from_str(state), "<|endoftext|>", None, "<s>")
    trimming.backend.post_processor = processors.ByteLevel(trim_offsets=True)
    # "  b" begins in the prompt of a plain layout, " b" does not.
    for template in (None, find_template("plain")):
        plain.chat_template = trimming.chat_template = template
        for messages in (talk("a", "  b  "), talk("a ", "b"), talk("a", " b")):
            expected_chat = encode_training_chat(plain, messages)
            assert encode_training_chat(trimming, messages) == expected_chat


# ---- what generation sees ----


# Llama's prompt ends with two line breaks, which GPT-2's rules join only where no word follows.
@pytest.mark.parametrize(
    ("name", "layout"),
    [(n, layout) for n in ("bytes", "qwen3") for layout in LAYOUTS]
    + [(n, layout) for n in ("smollm2", "gpt2") for layout in LAYOUTS if layout != "llama"],
)
def test_the_prompt_begins_the_tokens_and_the_answer_follows(name: str, layout: str) -> None:
    tokenizer = tokenizer_for(name, LAYOUTS[layout][0])
    messages = talk("Hi you", "Hello 😀!", "And\n?", "Größe.", system="Be brief.")
    chat = encode_training_chat(tokenizer, messages)
    for index in (2, 4):
        prompt = encode_chat(tokenizer, messages[:index])
        assert chat.ids[: len(prompt)] == prompt
        assert chat.is_target[len(prompt)]
        assert not chat.is_target[len(prompt) - 1]


@pytest.mark.parametrize("template", [None, LLAMA, GEMMA, find_template("chatml")])
def test_a_conversation_begins_once(template: str | None) -> None:
    tokenizer = tokenizer_for("bytes", template)
    begin = tokenizer.backend.token_to_id("<s>")
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    chat = encode_training_chat(tokenizer, talk("a", "b", "c", "d"))
    assert chat.ids[0] == begin
    assert chat.ids.count(begin) == 1
    assert len(chat.ids) == len(chat.is_target)
    assert learned(tokenizer, chat).startswith("b<")


# ---- against transformers ----

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("name", ["smollm2", "qwen3"])
def test_masks_are_those_of_transformers(name: str) -> None:
    path = shared_data("sgd_chat/sgd_messages.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        conversations = [
            json.loads(line)["messages"] for line, _ in zip(file, range(20), strict=False)
        ]
    conversations.append(talk(*CONTENTS["unicode"], system="  S "))
    ours = tokenizer_for(name, None)
    theirs = PreTrainedTokenizerFast(tokenizer_object=ours.backend)
    reference = theirs.apply_chat_template(
        conversations,
        chat_template=MARKED,
        return_assistant_tokens_mask=True,
        return_dict=True,
        tokenize=True,
    )
    for chat, ids, mask in zip(
        encode_training_chats(ours, conversations),
        reference["input_ids"],
        reference["assistant_masks"],
        strict=True,
    ):
        assert chat.ids == ids
        assert chat.is_target == [bool(value) for value in mask]


# ---- errors ----


def test_errors_say_where_the_conversation_stands() -> None:
    tokenizer = tokenizer_for("bytes", None)
    chats = [talk("a", "b"), talk("a")]
    with pytest.raises(InputError) as caught:
        encode_training_chats(tokenizer, chats, places=["x, line 1", "x, line 2"])
    assert str(caught.value) == (
        "x, line 2: no message is from the assistant, so there is nothing to learn"
    )
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(InputError) as caught:
        encode_training_chats(tokenizer, [talk("a", "b")], places=["x, line 1"])
    assert str(caught.value) == (
        "x, line 1: the chat template refuses the conversation: no system here"
    )
    assert encode_training_chats(tokenizer, []) == []


def test_a_template_in_which_an_answer_cannot_be_found() -> None:
    template = "{{ messages|map(attribute='content')|join|length }}"
    template += "{% for m in messages %}|{{ m.content }}{% endfor %}"
    tokenizer = tokenizer_for("bytes", template)
    with pytest.raises(InputError) as caught:
        encode_training_chat(tokenizer, talk("a", "b" * 20, "c", "d"))
    assert str(caught.value) == (
        "the chat template does not show where message 2, an answer, stands in the conversation; "
        "let loss fall on the last answer alone, or use another template"
    )

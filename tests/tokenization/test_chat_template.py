"""A conversation's text is what `transformers` makes of the same template; its tokens fit to it."""

from typing import Any

import pytest
from tokenizers import processors

from lit_gpt_kit import InputError, Tokenizer
from lit_gpt_kit.tokenization.chat_template import (
    chat_end_ids,
    chat_stop_texts,
    encode_chat,
    render_chat,
)
from lit_gpt_kit.tokenization.template_files import find_template
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.chat_templates import (
    GEMMA,
    LLAMA,
    MISTRAL,
    plain_tokenizer,
    qwen3_template,
    reference,
    smollm2_template,
)
from tests.conftest import shared_data

SYSTEM = {"role": "system", "content": "  Be <brief> & kind.\n"}
FIRST = {"role": "user", "content": "Wie groß ist die Welt? 你好 😀"}
ANSWER = {"role": "assistant", "content": "<think>\nIt is\nlarge.\n</think>\n\nVery 'large'. "}
SECOND = {"role": "user", "content": '{"why": "\\n"}\n'}
CONVERSATIONS = {
    "question": [FIRST],
    "system": [SYSTEM, FIRST],
    "exchange": [FIRST, ANSWER, SECOND],
    "all": [SYSTEM, FIRST, ANSWER, SECOND, ANSWER, FIRST],
    "answered": [FIRST, ANSWER],
    "empty": [{"role": "user", "content": ""}],
}
EVERYTHING = """\
{% macro show(role, text='-') %}
    [{{ role|upper }}: {{ text }}]
{% endmacro %}
    {# blocks lose their line, and the space before them #}
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% if loop.index > 4 %}{% break %}{% endif %}
{{ show(message.role, text=message.content|tojson) }}{{ message|tojson(indent=2) }}
    {% generation %}{{ message.content.split(' ')[0].replace('a', 'b') }}{% endgeneration %}
{% endfor %}
{{ messages|map(attribute='role')|join(', ') }} {{ messages|length }} {{ messages[-1].role }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ range(3)|list }}
{{ ['b', 'a']|sort|join }} {{ {'k': (1, 2)}|items|list }} {{ dict(a=1) }} {{ 7 // 2 ** 1 % 3 }}
{{ '%s is %d' % ('it', 3) }} {{ '{:>5}|{x}'.format('r', x=1) }} {{ 'a' * 3 + 'b' ~ 4 }}
{% set text %}{{ messages[0].role }}{% endset %}{{ text|indent(2, true)|center(20) }}
{{ tools is none }} {{ documents is none }} {{ nothing is defined }} [{{ nothing }}]
{{ 'x' in ['x', 'y'] }} {{ 'now' if strftime_now('%Y')|int > 2000 else 'then' }}
"""


TEMPLATES = {
    "smollm2": smollm2_template,
    "qwen3": qwen3_template,
    "llama": lambda: LLAMA,
    "mistral": lambda: MISTRAL,
    "gemma": lambda: GEMMA,
    "everything": lambda: EVERYTHING,
}


@pytest.mark.parametrize("add", [True, False], ids=["prompt", "no prompt"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_text_is_that_of_transformers(
    template: Any, messages: list[dict[str, str]], add: bool
) -> None:
    tokenizer = plain_tokenizer(template(), begin_token="<s>")
    text = render_chat(tokenizer, messages, add_generation_prompt=add)
    tokens = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    assert text == reference(template(), messages, add, **tokens)
    assert text or messages is CONVERSATIONS["empty"]


def test_layouts_are_the_known_ones() -> None:
    messages = [SYSTEM, FIRST]
    start, question = "<|start_header_id|>", FIRST["content"]
    assert render_chat(plain_tokenizer(LLAMA, begin_token="<|begin|>"), messages) == (
        f"<|begin|>{start}system<|end_header_id|>\n\nBe <brief> & kind.<|eot_id|>"
        f"{start}user<|end_header_id|>\n\n{question}<|eot_id|>"
        f"{start}assistant<|end_header_id|>\n\n"
    )
    assert render_chat(plain_tokenizer(MISTRAL, begin_token="<s>"), [FIRST, ANSWER, SECOND]) == (
        f"<s>[INST] {question}[/INST] {ANSWER['content'].strip()}<|endoftext|>"
        f"[INST] {SECOND['content']}[/INST]"
    )


def test_a_tokenizer_without_a_begin_token_writes_none() -> None:
    tokenizer = plain_tokenizer("[{{ bos_token }}{{ eos_token }}]")
    assert render_chat(tokenizer, [FIRST]) == "[<|endoftext|>]"
    tokenizer.end_token = None
    assert render_chat(tokenizer, [FIRST]) == "[]"


def test_without_a_template_it_is_chatml() -> None:
    text = render_chat(plain_tokenizer(None), [SYSTEM, FIRST, {"role": "assistant", "content": ""}])
    assert text == (
        f"<|im_start|>system\n{SYSTEM['content']}<|im_end|>\n"
        f"<|im_start|>user\n{FIRST['content']}<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render_chat(plain_tokenizer(None), [], add_generation_prompt=False) == ""


# ---- errors ----


def test_a_template_that_raises_is_quoted() -> None:
    with pytest.raises(InputError) as caught:
        render_chat(plain_tokenizer(MISTRAL), [FIRST, FIRST])
    assert str(caught.value) == (
        "the chat template refuses the conversation: roles must alternate, got user"
    )


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("a\n{% if x %}", "is not valid Jinja (line 2): Unexpected end of template."),
        ("{{ messages|frobnicate }}", "is not valid Jinja (line 1): No filter named 'frobnicate'."),
        ("{{ 1 // 0 }}", "fails: ZeroDivisionError: "),
        ("{{ messages[9].role }}", "fails: UndefinedError: list object has no element 9; correct"),
        ("{{ messages[0].content + 1 }}", 'fails: TypeError: can only concatenate str (not "int")'),
        ("{% include 'x' %}", "fails: TypeError: no loader for this environment specified; "),
    ],
)
def test_a_broken_template_gets_one_line(template: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        render_chat(plain_tokenizer(template), [FIRST])
    message = str(caught.value)
    assert message.startswith(f"the chat template {complaint}")
    assert message.endswith("; correct the template, or use another model")
    assert "\n" not in message


# ---- tokens ----


def test_the_template_alone_writes_the_begin_token() -> None:
    tokenizer = plain_tokenizer("{{ bos_token }}x", begin_token="<s>", special=("<s>",))
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 257)]
    )
    assert tokenizer.encode("x") == [257, ord("x")]
    assert encode_chat(tokenizer, [FIRST]) == [257, ord("x")]


def test_chatml_stands_behind_what_begins_a_text() -> None:
    special = ("<s>", "<|im_start|>", "<|im_end|>")
    tokenizer = plain_tokenizer(None, begin_token="<s>", special=special)
    prompt = [258, *b"user\na", 259, *b"\n", 258, *b"assistant\n"]
    assert encode_chat(tokenizer, [{"role": "user", "content": "a"}]) == prompt
    tokenizer = plain_tokenizer(None, begin_token="<s>", special=special)
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 257)]
    )
    assert encode_chat(tokenizer, [{"role": "user", "content": "a"}]) == [257, *prompt]


def test_qwen3_tokens_are_its_own() -> None:
    tokenizer = Tokenizer.from_file(
        shared_data("tokenizers/qwen3/tokenizer.json.gz"), end_token="<|im_end|>"
    )
    tokenizer.chat_template = qwen3_template()
    ids = encode_chat(tokenizer, [{"role": "user", "content": "Hi"}])
    assert ids == [151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198]
    assert tokenizer.backend.token_to_id("<|endoftext|>") == 151643
    assert chat_end_ids(tokenizer) == [151645]
    assert chat_stop_texts(tokenizer) == ()


# ---- where an answer ends ----


@pytest.mark.parametrize(
    ("template", "special", "ids", "texts"),
    [
        (find_template("alpaca"), (), [256], ("### Instruction:",)),
        (find_template("plain"), ("<|im_end|>",), [256], ()),
        (find_template("chatml"), ("<|im_end|>",), [256, 257], ()),
        (None, (), [256], ("<|im_end|>",)),
        (None, ("<|im_end|>", "<|eot_id|>"), [256, 257], ()),
        (LLAMA, ("<|im_end|>", "<|eot_id|>"), [256, 258], ()),
        (LLAMA, (), [256], ("<|eot_id|>",)),
        (GEMMA, ("<end_of_turn>",), [256, 257], ()),
        (MISTRAL, ("<|im_end|>",), [256], ()),
        ("{{ '<|end|>' }}{{ '<|im_end|>' }}", ("<|end|>",), [256, 257], ("<|im_end|>",)),
    ],
)
def test_what_ends_an_answer(
    template: str | None, special: tuple[str, ...], ids: list[int], texts: tuple[str, ...]
) -> None:
    tokenizer = plain_tokenizer(template, special=special)
    assert chat_end_ids(tokenizer) == ids
    assert chat_stop_texts(tokenizer) == texts


def test_a_tokenizer_with_no_end_at_all() -> None:
    backend = train_tokenizer(TokenizerConfig("byte", special_tokens=()), []).backend
    assert chat_end_ids(Tokenizer(backend)) == []

"""The templates that come with the package are found, and laid out by transformers as here."""

from pathlib import Path

import pytest

from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.tokenization.chat_template import render_chat
from lit_gpt_kit.tokenization.template_files import find_template, template_names
from tests.chat_templates import plain_tokenizer, reference

TALK = [
    {"role": "system", "content": " Be <brief>.\n"},
    {"role": "user", "content": "Hi {{ you }}"},
    {"role": "assistant", "content": " Hello 😀 "},
    {"role": "user", "content": "And?"},
]


def test_their_names() -> None:
    assert template_names() == ["alpaca", "chatml", "plain"]


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("messages", [TALK, TALK[1:], TALK[:3]])
@pytest.mark.parametrize("name", ["alpaca", "chatml", "plain"])
def test_transformers_renders_them_alike(
    name: str, messages: list[dict[str, str]], add: bool
) -> None:
    template = find_template(name)
    tokenizer = plain_tokenizer(template, begin_token="<s>")
    text = render_chat(tokenizer, messages, add_generation_prompt=add)
    tokens = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    assert text == reference(template, messages, add, **tokens)
    assert text.startswith("<s>")


@pytest.mark.parametrize("begin", [None, "<|im_start|>"])
def test_chatml_is_what_a_tokenizer_without_a_template_has(begin: str | None) -> None:
    named = plain_tokenizer(find_template("chatml"), begin_token=begin)
    assert render_chat(named, TALK) == render_chat(plain_tokenizer(None), TALK)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("é{{ messages[0].content }}", encoding="utf-8")
    assert find_template(path) == find_template(str(path)) == "é{{ messages[0].content }}"


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_template("alpca")
    assert str(caught.value) == (
        "chat_template='alpca' is neither a .jinja file nor a template that comes with "
        "lit_gpt_kit; did you mean 'alpaca'?"
    )
    with pytest.raises(MissingFileError, match=r"^chat template .*own\.jinja does not exist$"):
        find_template(tmp_path / "own.jinja")
    (tmp_path / "own.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"own\.jinja is not UTF-8 text: "):
        find_template(tmp_path / "own.jinja")

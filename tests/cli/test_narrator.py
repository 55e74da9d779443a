"""What `fit` proposes to type next."""

from types import SimpleNamespace
from typing import Any

import pytest

from lit_gpt_kit import TokenizerConfig
from lit_gpt_kit.callbacks.sample_text import SampleText
from lit_gpt_kit.cli.narrator import _show_sample
from lit_gpt_kit.tokenization.training import train_tokenizer

PLAIN: Any = SimpleNamespace(callbacks=[])


def module_that_writes(text: str, kind: Any = "byte") -> Any:
    prompts: list[str] = []

    def generate(prompt: str, **options: Any) -> str:
        prompts.append(prompt)
        return text

    tokenizer = train_tokenizer(TokenizerConfig(kind), ["fox dog"])
    return SimpleNamespace(tokenizer=tokenizer, generate=generate, prompts=prompts)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("the fox", "the"),
        ("\ufffd%|B " + "x" * 40 + " fox", "fox"),
        ("1. «über»\nund", "und"),
        ("%% %%", "%"),
        ("", "TEXT"),
    ],
)
def test_next_prompt_is_a_short_word_of_the_sample(text: str, prompt: str) -> None:
    assert _show_sample(PLAIN, module_that_writes(text)) == prompt


def test_sample_of_a_char_model_starts_with_a_character_it_knows() -> None:
    module = module_that_writes("dog", kind="char")
    _show_sample(PLAIN, module)
    assert module.prompts == [" "]


def test_foreign_tokenizer_gets_no_sample() -> None:
    module = module_that_writes("dog")
    module.tokenizer = object()
    assert _show_sample(PLAIN, module) == "TEXT"
    assert module.prompts == []


def test_a_sample_that_was_shown_is_not_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    sampler = SampleText("a")
    sampler._rows = [[1, None, "a", " first"], [2, None, "a", " a longword one"]]
    assert _show_sample(SimpleNamespace(callbacks=[sampler]), object()) == "a"  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    sampler.is_shown = False
    assert _show_sample(SimpleNamespace(callbacks=[sampler]), object()) == "TEXT"  # type: ignore[arg-type]

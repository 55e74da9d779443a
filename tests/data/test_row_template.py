"""Question and answer from any columns, by plain replacement and nothing else."""

from typing import Any

import pytest

from lit_gpt_kit.data.row_template import RowTemplate
from lit_gpt_kit.errors import InputError

ROW = {"English": "Go. {French}", "French": "Va !", "the level": 3, "none": None, "list": ["a"]}


def test_columns_are_filled_in() -> None:
    template = RowTemplate(
        prompt="{{To}} French: {English} ({the level})", completion="{French}", system="{French}{{"
    )
    assert template.columns == ["French", "English", "the level"]
    assert template.fill(ROW) == {
        "system": "Va !{",
        "prompt": "{To} French: Go. {French} (3)",
        "completion": "Va !",
    }
    assert RowTemplate("a", "{French}").fill(ROW) == {"prompt": "a", "completion": "Va !"}


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("{French.__class__}", "French.__class__"),
        ("{French[0]}", "French[0]"),
        ("{French!r}", "French!r"),
        ("{French:>99}", "French:>99"),
        ("{0}", "0"),
    ],
)
def test_a_field_is_a_column_and_no_expression(text: str, column: str) -> None:
    with pytest.raises(InputError) as caught:
        RowTemplate(text, "{French}").fill(ROW)
    assert str(caught.value).startswith(
        f"no column '{column}'; columns there: 'English', 'French', 'the level', 'none', 'list'"
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"frnch": "a", "b": "c"}, "no column 'French'; columns there: 'frnch', 'b'"),
        ({"Frenchs": "a"}, "no column 'French'; columns there: 'Frenchs'; did you mean 'Frenchs'?"),
        ({}, "no column 'French'; columns there: none"),
        ({"French": None}, "'French' is empty"),
        ({"French": ["a"]}, "'French' holds neither text nor number: ['a']"),
    ],
)
def test_a_row_without_the_column(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        RowTemplate("a", "{French}").fill(values)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("prompt", "completion", "complaint"),
    [
        ("a {", "{b}", "prompt='a {' has a '{' that is no part of a {column}; write '{{' for"),
        ("a } b", "{b}", "prompt='a } b' has a '}' that is no part of a {column}; write '}}' for"),
        ("{}", "{b}", "prompt='{}' has a '{' that is no part of a {column}; write '{{' for the"),
        ("{a}", "b", "completion='b' names no {column}, so every answer is the same"),
        ("{a}", "{{b}}", "completion='{{b}}' names no {column}, so every answer is the same"),
    ],
)
def test_texts_that_cannot_be_filled(prompt: str, completion: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        RowTemplate(prompt, completion)
    assert str(caught.value).startswith(complaint)

"""Patterns match whole words of a name, wherever they stand."""

import pytest

from lit_gpt_kit.patterns import matches, short_names

NAME = "model.blocks.3.attention.qkv.weight"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("qkv", True),
        ("attention", True),
        ("attention.*", True),
        ("blocks.[0-3]", True),
        ("blocks.[0-2]", False),
        ("blocks.*.weight", True),
        ("*", True),
        (NAME, True),
        ("kv", False),
        ("att", False),
        ("ATTENTION", False),
        ("blocks.attention", False),
    ],
)
def test_matches(pattern: str, expected: bool) -> None:
    assert matches(NAME, pattern) == expected


def test_a_number_is_a_whole_word() -> None:
    assert not matches("blocks.12.mlp.up", "blocks.[0-3]")


def test_short_names_are_those_of_one_layer() -> None:
    names = ["wte", "blocks.0.mlp.up", "blocks.0.mlp.down", "blocks.1.mlp.up", "lm_head"]
    assert short_names(names) == ["wte", "mlp.up", "mlp.down", "lm_head"]

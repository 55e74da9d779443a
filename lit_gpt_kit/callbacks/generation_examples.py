"""Which examples a model is to answer: those given by hand, or those of the data module."""

from collections.abc import Sequence
from typing import Any

from lit_gpt_kit.data.examples import GenerationExample
from lit_gpt_kit.errors import InputError


def pair_examples(
    prompts: Sequence[str] | None, references: Sequence[str | Sequence[str]] | None
) -> list[GenerationExample]:
    """Each prompt with its reference or references, as a conversation of one message.

    Raises:
        InputError: there are more of one than of the other.
    """
    asked, wanted = prompts or [], references or []
    if len(asked) != len(wanted):
        raise InputError(
            f"GenerationMetrics: {len(asked)} prompts and {len(wanted)} references; give one "
            "reference, or one list of them, for each prompt"
        )
    return [
        GenerationExample(
            ({"role": "user", "content": prompt},),
            (texts,) if isinstance(texts, str) else tuple(texts),
        )
        for prompt, texts in zip(asked, wanted, strict=True)
    ]


def examples_of(datamodule: Any, split: str) -> Sequence[GenerationExample]:
    """The data module's examples of a split.

    Raises:
        InputError: it has none.
    """
    name = "no data module" if datamodule is None else type(datamodule).__name__
    if not hasattr(datamodule, "generation_examples"):
        raise InputError(
            f"GenerationMetrics has no examples: {name} has no `generation_examples`; give "
            "`prompts` and `references`"
        )
    examples: Sequence[GenerationExample] = datamodule.generation_examples(split)
    if not examples:
        raise InputError(
            f"GenerationMetrics has no examples: the {split} split of {name} is empty; give it "
            "rows, or leave the callback out"
        )
    return examples


def choose_examples(
    examples: Sequence[GenerationExample], most: int | None
) -> list[GenerationExample]:
    """At most so many, evenly spread and the same ones each time; None is all.

    Raises:
        InputError: an example lacks its question or its answer.
    """
    for number, example in enumerate(examples, start=1):
        if not (example.messages and example.references):
            lacking = "reference" if example.messages else "message"
            raise InputError(f"GenerationMetrics: example {number} has no {lacking}; leave it out")
    count = len(examples) if most is None else min(most, len(examples))
    return [examples[i * len(examples) // count] for i in range(count)]

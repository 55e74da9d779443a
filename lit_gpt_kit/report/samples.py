"""samples.md, read back."""

import re
from dataclasses import dataclass

HEADING = re.compile(r"^## Step ([\d,]+)(?:, ([\d,]+) tokens)?$")
FENCE = re.compile(r"^(`{3,})text$")


@dataclass(frozen=True)
class Sample:
    """A text that was written after a validation.

    Attributes:
        step: finished optimiser steps.
        tokens: seen by then, where it is known.
        prompt_number: which of the prompts it continues, from 0.
        text: prompt and continuation.
    """

    step: int
    tokens: int | None
    prompt_number: int
    text: str


def parse_samples(page: str) -> list[Sample]:
    """The samples of a samples.md, in its order: the newest first."""
    samples: list[Sample] = []
    step, number, fence = 0, 0, ""
    tokens: int | None = None
    lines: list[str] = []
    for line in page.split("\n"):
        if fence:
            if line == fence:
                samples.append(Sample(step, tokens, number, "\n".join(lines)))
                number, fence = number + 1, ""
            else:
                lines.append(line)
        elif heading := HEADING.match(line):
            step, number = _count(heading[1]), 0
            tokens = _count(heading[2]) if heading[2] else None
        elif opened := FENCE.match(line):
            fence, lines = opened[1], []
    return samples


def _count(text: str) -> int:
    return int(text.replace(",", ""))

"""Patterns that people name layers and parameters with."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import combinations

OF_LAYER = re.compile(r".*?\.\d+\.")
"""What the names in one layer of many begin with."""


def matches(name: str, pattern: str) -> bool:
    """The shell pattern matches a dotted name or some of its words, side by side.

    `blocks.3.mlp.up` is matched by `mlp`, `mlp.*`, `blocks.[0-3]` and `up`.
    """
    words = name.split(".")
    runs = combinations(range(len(words) + 1), 2)
    return any(fnmatchcase(".".join(words[start:stop]), pattern) for start, stop in runs)


def short_names(names: Iterable[str]) -> list[str]:
    """What the layers share, once: `blocks.0.mlp.up` and `blocks.1.mlp.up` are `mlp.up`."""
    return list(dict.fromkeys(OF_LAYER.sub("", name, count=1) for name in names))

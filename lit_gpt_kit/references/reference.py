"""A reference: the curves of one shipped config over several seeds, and where a new one should lie.

Each file beside this one is a reference: the settings that shape the curves, every seed's values,
and how they were made. `python -m tests.benchmarks.references` writes them.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import yaml

COVERAGE = 0.95
"""How much of what new runs give lies within a band."""
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t with 1, 2, ... degrees of freedom."""
FEWEST_SEEDS, MOST_SEEDS = 3, len(T_QUANTILES) + 1
"""With two a band is nine times as wide as they lie apart, and says nothing."""


@dataclass(frozen=True)
class Band:
    """Where the curve of one more run should lie.

    Attributes:
        tokens: seen in training, rising.
        low: lower ends of the band.
        middle: means over the seeds.
        high: upper ends of the band.
    """

    tokens: tuple[float, ...]
    low: tuple[float, ...]
    middle: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.tokens) == len(self.low) == len(self.middle) == len(self.high)
        assert all(a < b for a, b in pairwise(self.tokens))

    def at(self, tokens: float) -> tuple[float, float, float] | None:
        """Low, middle and high after so many tokens, in a line between two points.

        None before the first point and behind the last: nobody has been there.
        """
        if not self.tokens or not self.tokens[0] <= tokens <= self.tokens[-1]:
            return None
        after = bisect_left(self.tokens, tokens)
        before = max(after - 1, 0)
        width = self.tokens[after] - self.tokens[before]
        share = (tokens - self.tokens[before]) / width if width else 0.0
        low, middle, high = (
            (1 - share) * line[before] + share * line[after]
            for line in (self.low, self.middle, self.high)
        )
        return low, middle, high


@dataclass(frozen=True)
class Reference:
    """The curves of a shipped config.

    Attributes:
        name: the config file's.
        num_seeds: how many runs it comes from.
        curves: a band for each metric, by its name.
        tokens_per_step: of a whole step, over all devices.
        data_fingerprint: of the data to train on, `DataModule.identity["sha256"]`.
        settings: what shapes the curves, by dotted key; see `matching.shaping_settings`.
        provenance: command, date, versions, precision and hardware of the runs.
        seeds: every seed's curves, as they were measured: values (num_seeds, num_points).
    """

    name: str
    num_seeds: int
    curves: Mapping[str, Band]
    tokens_per_step: float
    data_fingerprint: str
    settings: Mapping[str, Any] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)
    seeds: Mapping[str, Sequence[Sequence[float]]] = field(repr=False)


def prediction_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Low, mean and high of where one more value should lie, in COVERAGE of the cases.

    mean -+ t(n - 1) s sqrt(1 + 1 / n), s the standard deviation with n - 1 below: the prediction
    interval for one more draw of a normal distribution whose mean and variance are not known. The
    1 is the new draw's own noise, the 1 / n that of the mean. Hahn and Meeker, Statistical
    Intervals (1991), section 4.7.

    Args:
        values: one per seed, FEWEST_SEEDS to MOST_SEEDS.
    """
    assert FEWEST_SEEDS <= len(values) <= MOST_SEEDS
    mean = statistics.fmean(values)
    quantile = T_QUANTILES[len(values) - 2]
    half = quantile * statistics.stdev(values, mean) * math.sqrt(1 + 1 / len(values))
    return mean - half, mean, mean + half


def build_band(tokens: Sequence[float], seeds: Sequence[Sequence[float]]) -> Band:
    """The band around the curves of several seeds.

    Args:
        tokens: (num_points,) rising.
        seeds: (num_seeds, num_points) values.
    """
    low, middle, high = zip(*map(prediction_interval, zip(*seeds, strict=True)), strict=True)
    return Band(tuple(tokens), low, middle, high)


def read_reference(name: str, text: str) -> Reference:
    """A reference as its file holds it.

    Args:
        name: the config file's.
        text: YAML: `settings`, `data_fingerprint`, `tokens_per_step`, `provenance`, and `curves`,
            for each metric its `tokens` and for each seed its `values`.
    """
    content = yaml.safe_load(text)
    curves = content["curves"]
    seeds = {metric: curve["values"] for metric, curve in curves.items()}
    return Reference(
        name,
        num_seeds=len(next(iter(seeds.values()))),
        curves={metric: build_band(c["tokens"], c["values"]) for metric, c in curves.items()},
        tokens_per_step=content["tokens_per_step"],
        data_fingerprint=content["data_fingerprint"],
        settings=content["settings"],
        provenance=content["provenance"],
        seeds=seeds,
    )


@cache
def load_references() -> tuple[Reference, ...]:
    """The references that come with the package, by name."""
    found = (path for path in files(__package__).iterdir() if path.name.endswith(".yaml"))
    return tuple(
        read_reference(path.name.removesuffix(".yaml"), path.read_text(encoding="utf-8"))
        for path in sorted(found, key=lambda path: path.name)
    )

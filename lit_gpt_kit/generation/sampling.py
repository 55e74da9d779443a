"""From logits to the next token: pure functions, one for each way of narrowing the choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_gpt_kit.errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """How a continuation is chosen."""

    max_new_tokens: int = 200
    """Longest continuation, in tokens."""
    temperature: float = 1.0
    """Below 1 sharpens the distribution, above 1 flattens it; 0 always takes the likeliest token
    (greedy)."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that together have this probability (nucleus sampling)."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that are in the text already less likely."""
    stop: Sequence[str] = ()
    """Texts at which the continuation ends; they are not part of it."""
    seed: int | None = None
    """The same seed gives the same text; none gives another one each time."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: naming the value and the rule.
        """
        rules = (
            ("max_new_tokens", self.max_new_tokens >= 1, "must be at least 1"),
            ("temperature", self.temperature >= 0, "must be at least 0 (0 is greedy)"),
            ("top_k", self.top_k is None or self.top_k >= 1, "must be at least 1"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "must be at least 0 and below 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "must be above 0"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InputError(f"{name}={getattr(self, name)} {rule}")
        if isinstance(self.stop, str):
            raise InputError(f"stop={self.stop!r} is one text; give a list of texts")
        if "" in self.stop:
            raise InputError("a stop text is empty; every text contains the empty one")


def penalise_repetition(
    logits: Float[Tensor, "batch vocab"], seen: Bool[Tensor, "batch vocab"], penalty: float
) -> Float[Tensor, "batch vocab"]:
    """Push the scores of seen tokens down by `penalty` (Keskar et al. 2019, section 4.1).

    Positive scores are divided by it and negative ones multiplied.
    """
    pushed = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, pushed, logits)


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """All but the k highest scores become -inf (Fan et al. 2018)."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Keep the fewest likeliest tokens whose probabilities reach p (Holtzman et al. 2020)."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill(before >= p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def keep_min_p(logits: Float[Tensor, "batch vocab"], min_p: float) -> Float[Tensor, "batch vocab"]:
    """Drop tokens below min_p times the likeliest one's probability (Nguyen et al. 2024)."""
    probabilities = logits.softmax(dim=-1)
    too_small = probabilities < min_p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(too_small, -torch.inf)


def next_token_distribution(
    logits: Float[Tensor, "batch vocab"],
    config: SamplingConfig,
    seen: Bool[Tensor, "batch vocab"] | None = None,
) -> Float[Tensor, "batch vocab"]:
    """The probabilities that `config` makes of the logits; temperature must be above 0.

    Args:
        logits: the network's scores.
        config: temperature and filters, applied in the order of its fields, the penalty first.
        seen: the tokens that are in each row's text; needed for the repetition penalty.
    """
    scores = logits.float()
    if seen is not None and config.repetition_penalty != 1:
        scores = penalise_repetition(scores, seen, config.repetition_penalty)
    scores = scores / config.temperature
    if config.top_k is not None:
        scores = keep_top_k(scores, config.top_k)
    if config.top_p < 1:
        scores = keep_top_p(scores, config.top_p)
    if config.min_p > 0:
        scores = keep_min_p(scores, config.min_p)
    return scores.softmax(dim=-1)


def choose_tokens(
    logits: Float[Tensor, "batch vocab"],
    config: SamplingConfig,
    uniforms: Float[Tensor, " batch"],
    seen: Bool[Tensor, "batch vocab"] | None = None,
) -> Int[Tensor, " batch"]:
    """The next token of each row: where its uniform number falls in the summed distribution.

    One uniform number a row, drawn beforehand, makes the choice a pure function.
    """
    if config.temperature == 0:
        if seen is not None and config.repetition_penalty != 1:
            logits = penalise_repetition(logits.float(), seen, config.repetition_penalty)
        return logits.argmax(dim=-1)
    probabilities = next_token_distribution(logits, config, seen)
    summed = probabilities.cumsum(dim=-1)
    if summed.device.type != "cpu":
        # A parallel scan may round a sum up where nothing was added; a token of probability 0
        # then takes the sum before it, and right=True never lands on it.
        summed = summed.where(probabilities > 0, 0.0).cummax(dim=-1).values
    # Scaled by the sum itself, which rounding leaves a little off 1, and may round up to.
    total = summed[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    points = (uniforms.to(summed)[:, None] * total).minimum(below)
    chosen = torch.searchsorted(summed, points, right=True)
    # Weights that training ruined score NaN: any token that is one will do, here the first.
    return chosen.where(total.isfinite(), 0).squeeze(-1)

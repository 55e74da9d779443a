"""Which of two values of a metric is the better one; free of Lightning, which is slow to import."""

from collections.abc import Callable

LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "error")
HIGHER_IS_BETTER = (
    "accuracy",
    "f1",
    "auroc",
    "average_precision",
    "rouge",
    "bleu",
    "chrf",
    "exact_match",
    "token_f1",
    "final_number",
)


def direction(name: str) -> Callable[[float, float], float] | None:
    """Which of two values of a metric is the better one, by its name; None where neither is."""
    split, _, word = name.partition("/")
    if split not in ("val", "test"):
        return None
    if word.startswith(HIGHER_IS_BETTER):  # f1_<label> whatever the label is called
        return max
    return min if any(part in word for part in LOWER_IS_BETTER) else None

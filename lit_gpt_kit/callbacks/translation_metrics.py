"""BLEU and chrF over a corpus, to the last digit those of sacrebleu with its defaults.

torchmetrics' versions differ from it where an order of n-grams has no match and where references
are equally far in length: BLEU is smoothed otherwise there, and chrF averages otherwise.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

WORD_ORDER = 4
CHARACTER_ORDER = 6
BETA = 2
"""How many times recall weighs more than precision in chrF2."""

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SPACED = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    # A full stop or a comma stays within a number, a dash behind one does not.
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU of the corpus, 0 to 100 (Papineni et al. 2002), as sacrebleu computes it (Post 2018).

    Words are those of `13a`; an order without a match counts half as much as the one before it
    (method 3 of Chen and Cherry 2014).
    """
    matches, totals = [0] * WORD_ORDER, [0] * WORD_ORDER
    num_words = num_reference_words = 0
    for prediction, texts in zip(predictions, references, strict=True):
        words, alternatives = _words(prediction), [_words(text) for text in texts]
        num_words += len(words)
        num_reference_words += min((abs(len(words) - len(a)), len(a)) for a in alternatives)[1]
        for order in range(WORD_ORDER):
            counts, most = _ngrams(words, order + 1), Counter[Any]()
            for alternative in alternatives:
                most |= _ngrams(alternative, order + 1)
            matches[order] += (counts & most).total()
            totals[order] += counts.total()
    if not any(matches) or 0 in totals:
        return {"bleu": 0.0}
    halved, log_precision = 1.0, 0.0
    for matched, total in zip(matches, totals, strict=True):
        if not matched:
            halved /= 2
        log_precision += math.log((matched or halved) / total) / WORD_ORDER
    log_brevity = min(0.0, 1 - num_reference_words / num_words)
    return {"bleu": 100 * math.exp(log_brevity + log_precision)}


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """chrF2 of the corpus, 0 to 100 (Popović 2015): an F-measure of n-grams of characters."""
    sums = [(0, 0, 0)] * CHARACTER_ORDER
    for prediction, texts in zip(predictions, references, strict=True):
        best = max((_character_counts(prediction, text) for text in texts), key=_chrf)
        sums = [(a + d, b + e, c + f) for (a, b, c), (d, e, f) in zip(sums, best, strict=True)]
    return {"chrf": 100 * _chrf(sums)}


def _character_counts(prediction: str, reference: str) -> list[tuple[int, int, int]]:
    """For each order how many n-grams there are in the prediction, the reference, and in both."""
    ours, theirs = "".join(prediction.split()), "".join(reference.split())
    counts = []
    for order in range(1, CHARACTER_ORDER + 1):
        a, b = _ngrams(ours, order), _ngrams(theirs, order)
        # Of a reference too short for this order nothing could be guessed, right or wrong.
        counts.append((a.total() if b else 0, b.total(), (a & b).total()))
    return counts


def _chrf(counts: Sequence[tuple[int, int, int]]) -> float:
    """F-beta of the mean precision and the mean recall, over the orders that both sides have."""
    used = [(a, b, both) for a, b, both in counts if a and b]
    if not any(both for _, _, both in used):
        return 0.0
    precision = sum(both / a for a, _, both in used) / len(used)
    recall = sum(both / b for _, b, both in used) / len(used)
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def _words(text: str) -> list[str]:
    """The words of mteval-v13a, the tokenizer of WMT."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, spaced in _SPACED:
        text = pattern.sub(spaced, text)
    return text.split()


def _ngrams(units: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(units[start:] for start in range(order)), strict=False))

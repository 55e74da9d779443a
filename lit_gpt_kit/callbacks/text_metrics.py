"""How good generated texts are: pure functions from answers and references to scores.

Each takes the answers and, for each of them, the references it may agree with, at least one; the
best counts. Scores have the scale of the script that made the metric known.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from torchmetrics.functional.text import rouge_score

from lit_gpt_kit.callbacks.translation_metrics import bleu, chrf

TextMetric = Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]

ROUGE_NAMES = ("rouge1", "rouge2", "rougeL")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = r"-?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
_MARKED_NUMBER = re.compile(rf"####\s*({_NUMBER})")


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ROUGE-1, -2 and -L: mean F-measures of 0 to 1 (Lin 2004), those of the rouge-score package.

    Words are made of the letters a to z and digits, and are not stemmed. Text in another script
    scores 0.
    """
    lists = [list(texts) for texts in references]
    scores = rouge_score(list(predictions), lists, accumulate="best", rouge_keys=ROUGE_NAMES)
    return {name: float(scores[f"{name}_fmeasure"]) for name in ROUGE_NAMES}


def exact_match(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Per cent of answers that are a reference, once both are normalised as SQuAD 1.1 does."""
    score = _mean_of_best(lambda a, b: _normalise(a) == _normalise(b), predictions, references)
    return {"exact_match": 100 * score}


def token_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """F-measure of the words that answer and reference share, 0 to 100, as SQuAD 1.1 has it."""
    return {"token_f1": 100 * _mean_of_best(_word_f1, predictions, references)}


def final_number(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Share of answers, 0 to 1, that end in the reference's number, digit for digit (GSM8K).

    That is the number behind `####`, where a text has one, else its last number; `$` and the
    commas between digits do not count.
    """

    def agree(prediction: str, reference: str) -> bool:
        number = _final_number(reference)
        return number is not None and number == _final_number(prediction)

    return {"final_number": _mean_of_best(agree, predictions, references)}


TEXT_METRICS: dict[str, TextMetric] = {
    "rouge": rouge,
    "bleu": bleu,
    "chrf": chrf,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "final_number": final_number,
}
"""What there is, by the name that people give."""


def _mean_of_best(
    score: Callable[[str, str], float],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
) -> float:
    pairs = zip(predictions, references, strict=True)
    return fmean(max(score(answer, text) for text in texts) for answer, texts in pairs)


def _normalise(text: str) -> str:
    """Lower case without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(prediction: str, reference: str) -> float:
    ours, theirs = _normalise(prediction).split(), _normalise(reference).split()
    num_common = (Counter(ours) & Counter(theirs)).total()
    return 2 * num_common / (len(ours) + len(theirs)) if num_common else 0.0


def _final_number(text: str) -> str | None:
    numbers = _MARKED_NUMBER.findall(text)[:1] or re.findall(_NUMBER, text)[-1:]
    return numbers[0].replace("$", "").replace(",", "") if numbers else None

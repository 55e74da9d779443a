"""Text metrics, held to the packages and scripts that made them known."""

import random
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from lit_gpt_kit.callbacks.text_metrics import TEXT_METRICS

WORDS = "the a An cat sat on mat it's don't bar- -foo run,- a.b, über Straße Страна 猫が好き é 😀"
SIGNS = "12,500 $3.50 3-4 7 -$4 .5 #### ... !!! — &amp; &quot; <x> <skipped> {x} [y] / \\ _"
PIECES = [*WORDS.split(), *SIGNS.split(), "dog\n", "\t", "\u00a0", ""]
ODD = ["", " ", "\n", "...", "!?", "猫が好き", "Привет, мир", "the", "a", "😀", "-\n", "ﬁ ²"]


def make_cases(num: int) -> list[tuple[list[str], list[list[str]]]]:
    """Answers and references made of awkward pieces, a few alike, from one to three a row."""
    rng = random.Random(0)

    def text() -> str:
        if rng.random() < 0.2:
            return rng.choice(ODD)
        return " ".join(rng.choices(PIECES, k=rng.choice([1, 2, 4, 8, 20])))

    def row() -> tuple[str, list[str]]:
        answer = text()
        texts = [text() for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.4:  # something near the answer
            texts[-1] = answer.replace("the", "a").upper() if rng.random() < 0.5 else answer + " x"
        return answer, texts

    cases = []
    for _ in range(num):
        rows = [row() for _ in range(rng.randint(1, 5))]
        cases.append(([a for a, _ in rows], [t for _, t in rows]))
    return cases


LONG = (["word another " * 700], [["another word 12 " * 500, "short"]])
CASES = [*make_cases(300), *[([a], [[b]]) for a in ODD for b in ODD], LONG]


def check(name: str, expected: Any) -> None:
    for predictions, references in CASES:
        actual = TEXT_METRICS[name](predictions, references)
        wanted = expected(predictions, references)
        assert actual == pytest.approx(wanted, abs=1e-6), (predictions, references)


def test_rouge_is_the_packages() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])

    def expected(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        rows = [scorer.score_multi(r, p) for p, r in zip(predictions, references, strict=True)]
        return {name: fmean(row[name].fmeasure for row in rows) for name in scorer.rouge_types}

    check("rouge", expected)


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The layout of sacrebleu: the first reference of each row, the second, and so on."""
    most = max(len(texts) for texts in references)
    return [[t[i] if i < len(t) else None for t in references] for i in range(most)]


def test_bleu_is_sacrebleus() -> None:
    check("bleu", lambda p, r: {"bleu": sacrebleu.corpus_bleu(p, streams(r)).score})


def test_chrf_is_sacrebleus() -> None:
    check("chrf", lambda p, r: {"chrf": sacrebleu.corpus_chrf(p, streams(r)).score})


def squad_normalised(text: str) -> str:
    """As evaluate-v1.1.py of SQuAD normalises an answer."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction: str, truth: str) -> float:
    """As evaluate-v1.1.py of SQuAD."""
    words, true_words = squad_normalised(prediction).split(), squad_normalised(truth).split()
    num_same = sum((Counter(words) & Counter(true_words)).values())
    if num_same == 0:
        return 0
    precision, recall = num_same / len(words), num_same / len(true_words)
    return 2 * precision * recall / (precision + recall)


def squad_exact(prediction: str, truth: str) -> float:
    return squad_normalised(prediction) == squad_normalised(truth)


@pytest.mark.parametrize(("name", "score"), [("exact_match", squad_exact), ("token_f1", squad_f1)])
def test_squad_is_its_scripts(name: str, score: Any) -> None:
    def expected(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        rows = zip(predictions, references, strict=True)
        return {name: 100 * sum(max(score(p, t) for t in r) for p, r in rows) / len(predictions)}

    check(name, expected)


@pytest.mark.parametrize(
    ("answer", "reference", "is_right"),
    [
        ("She has 3 and 4, so 7.", "3 + 4 = 7\n#### 7", True),
        ("It costs $1,234.50.", "#### 1234.50", True),
        ("#### 5\n\nQuestion: what is 3 + 9?", "#### 5", True),
        ("The answer is -$3", "#### -3", True),
        ("#### $18", "18", True),
        ("10-4", "#### -4", True),
        ("between 1.5.", "so .5 or 1.5", True),
        ("5...", "5", True),
        ("17", "#### 7", False),
        ("7 apples, not 8", "#### 7", False),
        ("", "#### 7", False),
        ("none", "none", False),
        ("7.0", "#### 7", False),  # digit for digit, as GSM8K compares
    ],
)
def test_final_numbers(answer: str, reference: str, is_right: bool) -> None:
    assert TEXT_METRICS["final_number"]([answer], [[reference]]) == {"final_number": is_right}


def test_final_number_takes_any_reference_and_the_mean() -> None:
    scores = TEXT_METRICS["final_number"](["7", "8", "9", "x"], [["1", "7"], ["8"], ["1"], ["2"]])
    assert scores == {"final_number": 0.5}


def test_marked_numbers_are_found_as_gsm8k_finds_them() -> None:
    def published(text: str) -> str | None:
        match = re.search(r"#### (\-?[0-9\.\,]+)", text)
        return match.group(1).strip().replace(",", "") if match else None

    rng = random.Random(0)
    for _ in range(200):
        a, b = (f"1 + 2 = 3\n#### {rng.choice(['', '-'])}{rng.randint(9, 11):,}000" for _ in "ab")
        (score,) = TEXT_METRICS["final_number"]([a], [[b]]).values()
        assert score == (published(a) == published(b))


def test_no_package_beyond_the_base_install_is_needed() -> None:
    program = (
        "import sys\n"
        "for name in ('nltk', 'sacrebleu', 'rouge_score'):\n"
        "    sys.modules[name] = None\n"
        "from lit_gpt_kit.callbacks.text_metrics import TEXT_METRICS\n"
        "for metric in TEXT_METRICS.values():\n"
        "    assert set(metric(['so 7'], [['so 7']]).values()) <= {0, 1, 100}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

"""Where a curve lies, and what is said of it."""

import math
from typing import Any

import pytest

from lit_gpt_kit.references import matching
from lit_gpt_kit.references.verdict import judge, judge_run, read_curve, tokens_per_step
from tests.references.made import FINGERPRINT, make_config, make_reference

SMALL = make_reference("small")
# The band: 2.60 to 3.60 after 100 tokens, 1.60 to 2.60 after 200, 0.60 to 1.60 after 300.


def test_within() -> None:
    verdict = judge(SMALL, "val/loss", [(100, 3.0), (300, 1.25)])
    assert verdict is not None
    assert verdict.low == pytest.approx(1.1 - 0.49687, abs=1e-4)
    assert (verdict.place, verdict.tokens, verdict.outside_since) == ("within", 300, None)
    assert str(verdict) == (
        "val/loss 1.2500 after 300 tokens: as expected of small (0.603 to 1.597, from 3 seeds)"
    )


def test_above_since_the_point_from_which_it_stayed_there() -> None:
    curve = [(100, 9.0), (150, 2.6), (250, 3.0), (200, 2.9), (300, 1.8)]
    verdict = judge(SMALL, "val/loss", curve)
    assert verdict is not None
    assert (verdict.place, verdict.outside_since) == ("above", 200)
    assert str(verdict) == (
        "val/loss 1.8000 after 300 tokens: higher than expected of small "
        "(0.603 to 1.597, from 3 seeds), outside since 200 tokens; by chance alone one run in 20 "
        "is outside"
    )


def test_below_at_the_last_point_alone() -> None:
    verdict = judge(SMALL, "val/loss", [(200, 2.0), (300, 0.5)])
    assert verdict is not None
    assert (verdict.place, verdict.outside_since) == ("below", 300)
    assert "lower than expected of small (0.603 to 1.597, from 3 seeds); by" in str(verdict)


def test_what_is_no_number_is_above() -> None:
    verdict = judge(SMALL, "val/loss", [(200, math.nan), (300, math.nan)])
    assert verdict is not None
    assert verdict.place == "above"
    assert str(verdict) == (
        "val/loss nan after 300 tokens: small has 0.603 to 1.597, from 3 seeds, "
        "outside since 200 tokens"
    )


def test_a_run_that_is_not_over_is_compared_where_it_is() -> None:
    verdict = judge(SMALL, "val/loss", [(50, 9.0), (150, 2.7)])
    assert verdict is not None
    assert (verdict.place, verdict.tokens) == ("within", 150)
    assert verdict.low == pytest.approx(2.6 - 0.49687, abs=1e-4)  # half-way between two points


@pytest.mark.parametrize("curve", [[], [(50, 3.0)], [(301, 1.0)]])
def test_where_the_reference_has_not_been_there_is_no_verdict(curve: Any) -> None:
    assert judge(SMALL, "val/loss", curve) is None
    assert judge(SMALL, "val/accuracy", [(300, 1.0)]) is None


def test_a_validation_between_logged_steps_gets_the_tokens_of_its_step() -> None:
    rows = [
        {"step": "4", "train/tokens": "", "val/loss": "4"},
        {"step": "10", "train/tokens": "100", "val/loss": None},
        {"step": "15", "train/tokens": "", "val/loss": "3"},
        {"step": "20", "train/tokens": "300", "val/loss": "nan"},  # a batch that grew
        {"step": "25", "val/loss": "2"},
    ]
    points = read_curve(rows, "val/loss")
    assert [t for t, _ in points] == [40, 200, 300, 400]
    assert [v for _, v in points[:2]] == [4, 3]
    assert math.isnan(points[2][1])
    assert tokens_per_step(rows) == 15
    assert tokens_per_step(rows[:1]) is None
    assert read_curve(rows[:1], "val/loss") == []
    assert read_curve(rows, "val/accuracy") == []


def test_a_whole_run_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "load_references", lambda: (SMALL,))
    rows = [
        {"step": "20", "train/tokens": "200", "train/loss": "2.1", "val/loss": ""},
        {"step": "30", "train/tokens": "300", "train/loss": "9", "val/loss": "1.3"},
    ]
    verdict = judge_run(make_config(), FINGERPRINT, iter(rows))
    assert verdict is not None
    assert (verdict.metric, verdict.value, verdict.place) == ("val/loss", 1.3, "within")
    untested = judge_run(make_config(), FINGERPRINT, [{**r, "val/loss": ""} for r in rows])
    assert untested is not None
    assert (untested.metric, untested.place) == ("train/loss", "above")
    assert judge_run(make_config(num_layers=1), FINGERPRINT, rows) is None
    assert judge_run(make_config(), FINGERPRINT, []) is None
    twice = [{**r, "train/tokens": str(2 * float(r["train/tokens"]))} for r in rows]
    assert judge_run(make_config(), FINGERPRINT, twice) is None

"""Which metrics of a row are sent."""

from lit_gpt_kit.loggers.sent_rows import SentRows
from lit_gpt_kit.loggers.wandb_file import LastRows

TRAIN, VAL = {"train/loss": 2.0}, {"val/loss": 1.5}
ROW = {**TRAIN, **VAL}


def test_a_value_is_sent_once() -> None:
    sent = SentRows()
    assert sent.add(3, TRAIN) == TRAIN
    assert sent.add(3, ROW) == VAL
    assert sent.add(4, ROW) == ROW
    assert sent.add(4, {"val/loss": 1.25}) == {"val/loss": 1.25}


def test_steps_that_are_trained_again_are_left_out() -> None:
    sent = SentRows(LastRows(3, frozenset(TRAIN)))
    assert [sent.add(step, ROW) for step in (2, 3, 4)] == [{}, VAL, ROW]


def test_where_only_the_step_is_known_the_summary_says_what_came_last() -> None:
    before = SentRows(LastRows(3), {"val/loss": 1.75, "picture": {"path": "a.png"}})
    assert before.add(3, ROW) == VAL
    assert before.add(3, {"picture": 1.0}) == {"picture": 1.0}
    after = SentRows(LastRows(3), {"val/loss": 1.5 + 1e-6})
    assert after.add(3, ROW) == {}

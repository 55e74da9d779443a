"""What of a table is sent, when."""

import pytest

from lit_gpt_kit.loggers import growing_table
from lit_gpt_kit.loggers.growing_table import GrowingTable

ROWS = [[step, f"text {step}"] for step in range(1, 7)]


def test_rows_are_added_to_one_table() -> None:
    table = GrowingTable(["step", "text"], last_step=None)
    first = table.add(ROWS[:2])
    assert (first.columns, first.data) == (["step", "text"], ROWS[:2])
    assert table.add(ROWS[:2]) is None
    assert table.add(ROWS[:3]) is first
    assert first.data == ROWS[:3]


def test_a_run_that_goes_on_sends_only_what_is_not_there() -> None:
    table = GrowingTable(["step", "text"], last_step=2)
    assert table.add(ROWS[:2]) is None
    assert table.add(ROWS[:4]).data == ROWS[2:4]


@pytest.mark.parametrize(("last_step", "start"), [(None, 0), (1, 4)])
def test_a_table_of_many_parts_is_begun_anew(
    last_step: int | None, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_table, "MOST_INCREMENTS", 3)
    table = GrowingTable(["step", "text"], last_step)
    first = 0 if last_step is None else last_step
    tables = [table.add(ROWS[: first + number]) for number in range(1, 5)]
    assert tables[0] is tables[2] is not tables[3]
    assert tables[3].data == ROWS[start : first + 4]

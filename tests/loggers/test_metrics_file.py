"""Reading metrics.csv, whole or cut off."""

from pathlib import Path

import pytest

from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from lit_gpt_kit.loggers.metrics_file import read_metrics

WHOLE = "step,a,b\n10,0.5,6\n20,0.25,\n50,0.125,7\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


def test_cells_come_as_they_stand_there(path: Path) -> None:
    path.write_text(WHOLE)
    found = read_metrics(path)
    assert found.columns == ["step", "a", "b"]
    assert found.rows == {
        10: {"step": "10", "a": "0.5", "b": "6"},
        20: {"step": "20", "a": "0.25"},
        50: {"step": "50", "a": "0.125", "b": "7"},
    }
    assert found.num_broken_lines == 0


def test_what_the_logger_writes_is_read_back(path: Path) -> None:
    logger = MetricsCSV(path.parent)
    logger.log_metrics({"train/loss": 2.5, 'f1, "of" a': 0.5}, step=0)
    logger.log_metrics({"train/loss": float("nan")}, step=1)
    assert read_metrics(path).rows == {
        1: {"step": "1", "train/loss": "2.5", 'f1, "of" a': "0.5"},
        2: {"step": "2", "train/loss": "nan"},
    }


@pytest.mark.parametrize("lost", range(1, len("50,0.125,7\n")))
def test_a_line_cut_off_by_a_crash_is_left_out(path: Path, lost: int) -> None:
    path.write_text(WHOLE[:-lost])
    found = read_metrics(path)
    assert (list(found.rows), found.num_broken_lines) == ([10, 20], 1)


@pytest.mark.parametrize(
    "broken", ["30,0.1", "30", "x,1,2", "30,1,2,3", "30,o.5,1", "\0\0\0", ",,"]
)
def test_a_broken_line_in_the_middle_is_left_out(path: Path, broken: str) -> None:
    path.write_text(WHOLE.replace("20,0.25,", broken))
    found = read_metrics(path)
    assert (list(found.rows), found.num_broken_lines) == ([10, 50], 1)


def test_bytes_that_are_no_text_break_only_their_line(path: Path) -> None:
    path.write_bytes(WHOLE.encode().replace(b"20,0.25", b"20,\xff.25"))
    found = read_metrics(path)
    assert (list(found.rows), found.num_broken_lines) == ([10, 50], 1)


@pytest.mark.parametrize("text", ["", "step,a", "step,a\n"])
def test_a_file_that_was_just_begun_has_no_rows(path: Path, text: str) -> None:
    path.write_text(text)
    assert read_metrics(path).rows == {}


def test_something_else_altogether_has_no_rows(path: Path) -> None:
    path.write_text("a,b\n1,2\n")
    found = read_metrics(path)
    assert (found.columns, found.rows, found.num_broken_lines) == (["step"], {}, 2)

"""Progress: a bar for a person at a terminal, two plain lines for a log."""

import io
import re
import sys

import pytest

from lit_gpt_kit.data.progress import show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_two_lines_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("tokenising a.txt", 3_000_000) as advance:
        assert capsys.readouterr().err == "tokenising a.txt ...\n"
        advance(1_000_000)
        advance(1_234_567)
    out, err = capsys.readouterr()
    assert re.fullmatch(r"tokenising a\.txt: 2\.2 MB in \d+\.\d s\n", err)
    assert out == ""


def test_no_success_is_told_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), show_progress("tokenising", None):
        raise KeyError
    assert capsys.readouterr().err == "tokenising ...\n"


@pytest.mark.parametrize(("total", "shown"), [(4_000_000, "3.0/4.0 MB"), (None, "3.0/? MB")])
def test_a_bar_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, total: int | None, shown: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with show_progress("tokenising", total) as advance:
        advance(1_000_000)
        advance(2_000_000)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "tokenising" in plain
    assert shown in plain
    assert " ..." not in plain

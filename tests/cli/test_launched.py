"""Processes that were started beside the first one end with it, and it with them."""

import subprocess
import sys
import time
from typing import Any

import pytest
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lit_gpt_kit.cli import launched
from lit_gpt_kit.cli.launched import ends_with_its_ranks


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is left to the end of the process, and how the process would be ended."""
    calls: list[Any] = []
    monkeypatch.setattr(launched, "SECONDS_TO_END", 0.3)
    monkeypatch.setattr(launched, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(launched.atexit, "register", lambda *call: calls.append(call))
    monkeypatch.setattr(launched.os, "_exit", calls.append)
    return calls


def start(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-S", "-c", code])


WAITS = "import time; time.sleep(60)"


def launcher_of(*codes: str) -> _SubprocessScriptLauncher:
    launcher: Any = object.__new__(_SubprocessScriptLauncher)
    launcher.procs = [start(code) for code in codes]
    return launcher


def test_where_the_first_fails_the_others_are_ended(later: list[Any]) -> None:
    launcher = launcher_of("", WAITS)
    done, waiting = launcher.procs
    with pytest.raises(ValueError, match="wrong"), ends_with_its_ranks(launcher):
        raise ValueError("wrong")
    assert launcher.procs == []  # Lightning's observer would end the first one too
    assert waiting.poll() is None  # until the first one has said what is wrong
    ((end, processes),) = later
    end(processes)
    assert (done.wait(), waiting.wait()) == (0, -9)


def test_where_another_has_wrong_input_the_first_does_not_wait(later: list[Any]) -> None:
    launcher = launcher_of("raise SystemExit(2)", WAITS)
    processes = list(launcher.procs)
    with ends_with_its_ranks(launcher):
        deadline = time.monotonic() + 30
        while not later and time.monotonic() < deadline:
            time.sleep(0.01)
    assert later[0] == 2
    assert [process.wait() for process in processes] == [2, -9]


def test_a_run_that_ends_well_leaves_the_others_alone(later: list[Any]) -> None:
    launcher = launcher_of(WAITS)
    with ends_with_its_ranks(launcher):
        pass
    (process,) = launcher.procs
    time.sleep(0.05)
    assert process.poll() is None
    assert later == []
    process.kill()
    process.wait()

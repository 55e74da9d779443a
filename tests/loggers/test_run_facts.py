"""What a run was made of: versions, commit, hardware."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from lit_gpt_kit.loggers import run_facts
from lit_gpt_kit.loggers.run_facts import (
    collect_facts,
    find_commit,
    find_hardware,
    find_versions,
)


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_commit_and_whether_it_is_changed(tmp_path: Path) -> None:
    assert find_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert find_commit(tmp_path) is None  # nothing is committed
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("")
    assert find_commit(tmp_path) == {"commit": commit, "is_dirty": False}
    (tmp_path / "a").write_text("2")
    (tmp_path / "below").mkdir()
    assert find_commit(tmp_path / "below") == {"commit": commit, "is_dirty": True}


def test_git_that_hangs_or_lacks_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(run_facts, "GIT_SECONDS", 0.1)
    assert find_commit() is None
    monkeypatch.setenv("PATH", "")
    assert find_commit() is None


def test_facts() -> None:
    facts = collect_facts()
    assert set(facts) == {"versions", "git", "hardware"}
    assert find_versions()["torch"] == version("torch")
    hardware = find_hardware()
    assert hardware["num_cpus"] == os.cpu_count()
    assert 2**28 < hardware["memory_bytes"] < 2**50
    assert hardware["cpu"]

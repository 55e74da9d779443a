"""Every command and every program shown in README and docs runs as it stands there.

A wrapper cuts `fit` to a few steps. The lines that set up an environment and run the tests are
.ci/run's.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command import EXECUTABLE
from tests.transformers_models import build, save
from tests.warm.python import warm_python

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (?P<note>[\w ]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.S)
ELSEWHERE = {"quickstart", "test", "checks", "interactive", "outside project", "measured"}
FEW_STEPS = "--trainer.max_steps=4 --trainer.val_check_interval=2 --trainer.limit_val_batches=1"


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    found = BLOCK.finditer(page.read_text())
    return [(b["note"] or "", b["text"]) for b in found if b["language"] == language]


def shell(command: str, folder: Path, home: Path) -> str:
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{home / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        + os.environ["PATH"],
        "PYTHONPATH": str(folder),
        "WANDB_MODE": "offline",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose `lit-gpt fit` takes a few steps and whose other commands are the real ones."""
    folder = tmp_path_factory.mktemp("home")
    wrapper = folder / "bin" / "lit-gpt"
    wrapper.parent.mkdir()
    real = f"{warm_python()} {EXECUTABLE}"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$1 $2 $*" in\n*--model.help*|*--data.help*) exec {real} "$@";;\n'
        f'"fit "*) exec {real} "$@" {FEW_STEPS};;\n*) exec {real} "$@";;\nesac\n'
    )
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    (wrapper.parent / "python").symlink_to(warm_python())
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """What a reader has after the quickstart: a clone with a run in it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "docs"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, folder / name)
    shell("lit-gpt fit --config configs/quickstart.yaml", folder, home)
    make_hub_models(folder)
    make_rows(folder)
    return folder


def make_rows(folder: Path) -> None:
    """The files of rows that the pages on fine-tuning name."""
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
    files: dict[str, list[dict[str, Any]]] = {
        "train.jsonl": [{"text": f"a {word} film", "label": word} for word in ("good", "bad")],
        "new.jsonl": [{"text": "a film"}],
        "dialogues.jsonl": [{"dialogue": "Ann: Tea?\nBen: Yes.", "summary": "Ben has tea."}],
        "chats.jsonl": [{"messages": chat}],
        "instructions.jsonl": [{"instruction": "Say yes.", "input": "", "output": "Yes."}],
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows * 30))
    question = {"context": "It is late.", "question": "How late is it?", "answers": ["late"]}
    (folder / "questions.json").write_text(json.dumps([question] * 60))
    (folder / "en_fr.tsv").write_text("Run!\tCours !\nIt is late.\tIl est tard.\n" * 200)


def make_hub_models(folder: Path) -> None:
    """Folders under the names that the pages have from the hub: small models, not those."""
    save(build("gpt2", "plain", n_positions=512), folder / "gpt2")
    smollm2 = build("llama", "grouped", max_position_embeddings=512)
    save(smollm2, folder / "HuggingFaceTB/SmolLM2-135M-Instruct")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(page: Path, clone: Path, home: Path) -> None:
    commands = [text for note, text in blocks(page, "bash") if note not in ELSEWHERE]
    for command in commands:
        shell(command, clone, home)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_programs_run(page: Path, home: Path, tmp_path: Path) -> None:
    programs = [t for _, t in blocks(page, "python") if not t.startswith("# my_project/")]
    make_hub_models(tmp_path)
    for number, program in enumerate(programs):
        (tmp_path / f"program_{number}.py").write_text(program)
        shell(f"python program_{number}.py", tmp_path, home)


def test_outside_project_runs_as_the_page_tells(home: Path, tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "extending.md"
    for language in ("python", "yaml"):
        for _, text in blocks(page, language):
            if text.startswith("# my_project"):
                path = tmp_path / text.splitlines()[0].removeprefix("# ")
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    (command,) = (text for note, text in blocks(page, "bash") if note == "outside project")
    shell(command, tmp_path, home)
    diary = (tmp_path / "diary.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in diary] == ["step 2", "step 4"]
    assert "SmoothedLanguageModeling" in (tmp_path / "runs/mine/config.yaml").read_text()


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_quickstart_and_test_command_are_single_lines() -> None:
    notes = dict(blocks(REPOSITORY / "README.md", "bash"))
    assert set(notes) >= {"quickstart", "test"}
    assert len(notes["quickstart"].splitlines()) == len(notes["test"].splitlines()) == 1

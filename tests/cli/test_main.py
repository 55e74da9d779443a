"""`lit-gpt`: finds commands, imports little, and its exit status says what happened."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import lit_gpt_kit
from lit_gpt_kit.cli import tokenizer as tokenizer_command
from lit_gpt_kit.cli.main import COMMANDS, main
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.command import EXECUTABLE, environment, run, run_process

HEAVY = {"torch", "lightning", "wandb", "torchmetrics", "transformers", "matplotlib"}


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TokenizerConfig("byte"), []).save(path)
    return path


def failing_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run_command(command: str, arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(tokenizer_command, "run", run_command)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(arguments: list[str], tmp_path: Path) -> None:
    result = run(tmp_path, *arguments)
    assert (result.status, result.err) == (0, "")
    for name, (_, what) in COMMANDS.items():
        assert f"{name:12} {what}" in result.out


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_the_packages(flag: str, tmp_path: Path) -> None:
    assert run(tmp_path, flag).out == f"lit-gpt {lit_gpt_kit.__version__}\n"
    assert version("lit-gpt-kit") == lit_gpt_kit.__version__


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    result = run(tmp_path, command, "--help")
    assert result.status == 0
    assert "usage: lit-gpt" in result.out
    assert result.err == ""


def test_unknown_command_suggests_the_nearest(tmp_path: Path) -> None:
    complaint = run(tmp_path, "generat").complaint
    assert complaint == "there is no command 'generat'; did you mean 'generate'?"


def test_unknown_command_that_is_near_to_none_lists_all(tmp_path: Path) -> None:
    complaint = run(tmp_path, "quux").complaint
    assert complaint.endswith(f"known: {', '.join(sorted(COMMANDS))}")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["nonesuch"], 2),
        (["tokenizer", "--help"], 0),
        (["tokenizer", "inspect", "TOKENIZER", "--text", "a fox"], 0),
        (["tokenizer", "train", "--sources", "TEXT", "--output", "new.json"], 0),
        (["generate", "--help"], 0),
        (["generate", "x", "--temprature", "1"], 2),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_starts_without_the_heavy_libraries(
    arguments: list[str], status: int, tokenizer_file: Path, tmp_path: Path
) -> None:
    text = tmp_path / "fox.txt"
    text.write_text("the quick brown fox\n" * 20)
    places = {"TOKENIZER": str(tokenizer_file), "TEXT": str(text)}
    arguments = [places.get(argument, argument) for argument in arguments]
    program = (
        "import atexit, json, sys\n"
        "report = lambda: open('modules.json', 'w').write(json.dumps(list(sys.modules)))\n"
        "atexit.register(report)\n"
        "from lit_gpt_kit.cli.main import main\n"
        f"main({arguments!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(tmp_path), check=False
    )
    assert done.returncode == status
    loaded = set(json.loads((tmp_path / "modules.json").read_text()))
    assert "lit_gpt_kit.cli.main" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        ("KeyboardInterrupt", 130),
        ("lit_gpt_kit.InputError('x=1 breaks a rule')", 2),
        ("PermissionError(13, 'Permission denied', 'runs')", 2),
        ("RuntimeError('a fault of ours')", 1),
    ],
)
def test_exit_status_says_what_happened(raised: str, status: int, tmp_path: Path) -> None:
    program = (
        "import lit_gpt_kit\n"
        "from lit_gpt_kit.cli import main, tokenizer\n"
        "def run(command, arguments):\n"
        f"    raise {raised}\n"
        "tokenizer.run = run\n"
        "main.main(['tokenizer'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert ("Traceback" in done.stderr) == (status == 1)
    if status == 1:
        assert done.stderr.endswith("RuntimeError: a fault of ours\n")
    else:
        assert done.stderr.strip().startswith("lit-gpt: ")


def test_a_message_of_several_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing_command(monkeypatch, InputError("one\n  and  two\n"))
    assert run(tmp_path, "tokenizer").complaint == "one and two"


def test_debug_shows_the_traceback_of_wrong_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = InputError("x=1 breaks a rule")
    failing_command(monkeypatch, error)
    with pytest.raises(InputError) as caught:
        main(["tokenizer", "--debug"])
    assert caught.value is error


def test_debug_is_no_argument_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run_command(command: str, arguments: list[str]) -> int:
        seen.append(arguments)
        return 0

    monkeypatch.setattr(tokenizer_command, "run", run_command)
    with pytest.raises(SystemExit):
        main(["tokenizer", "train", "--debug", "--kind", "byte"])
    assert seen == [["train", "--kind", "byte"]]


def test_fault_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_command(monkeypatch, RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["tokenizer"])


def test_installed_command_answers_wrong_input_in_one_plain_line(tmp_path: Path) -> None:
    result = run_process(tmp_path, "fitt", cold=True)
    assert result.out == ""
    assert result.err == "lit-gpt: there is no command 'fitt'; did you mean 'fit'?\n"
    assert result.status == 2


def test_reader_that_leaves_gets_no_traceback(tokenizer_file: Path, tmp_path: Path) -> None:
    command: list[Any] = [EXECUTABLE, "tokenizer", "inspect", tokenizer_file, "--text", "a" * 50000]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) != 0
    assert process.stderr.read() == ""
    process.stderr.close()

"""lit-gpt inspect-data: what it shows, what it warns of, and that it leaves nothing."""

import json
from pathlib import Path

import pytest

from lit_gpt_kit.cli.inspect_data import histogram
from tests.command import CONFIG, TEXT, run, run_in_terminal

CHAT = """\
model:
  class_path: lit_gpt_kit.LanguageModeling
  init_args: {gpt: {num_layers: 1, num_heads: 2, embed_dim: 16, block_size: 128}}
data:
  class_path: lit_gpt_kit.InstructionDataModule
  init_args:
    sources: [chats.jsonl]
    tokenizer: {kind: byte, special_tokens: [<|endoftext|>, <|im_end|>]}
    val_fraction: 0.0
    cache_dir: cache
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "chat.yaml").write_text(CHAT)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]
    rows = [{"messages": turns}] * 3
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_shows_what_is_learned_and_leaves_nothing(project: Path) -> None:
    before = sorted(path.name for path in project.iterdir())
    result = run(project, "inspect-data", "--config", "chat.yaml", "--rows", "1")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("loss falls on what stands between ⟦ and ⟧")
    assert lines[2] == "row 1: 53 tokens, 10 learned, 52 positions"
    assert lines[3:6] == [
        "<|im_start|>user⏎",
        "Hi<|im_end|>⏎",
        "<|im_start|>assistant⏎",
    ]
    assert lines[6] == "⟦Good day.<|im_end|>⟧"
    assert "8 rows looked at: 8 documents, 424 tokens, 18.9% of them learned" in result.out
    assert "nothing looks wrong" in result.out
    assert lines[-1] == "next: lit-gpt fit --config chat.yaml"
    assert "\x1b" not in result.out
    left = {path.name for path in project.iterdir()} - {"home"}  # where the tests' commands live
    assert left == {*before, "cache"}


def test_warns_with_the_first_row(project: Path) -> None:
    result = run(project, "inspect-data", "--config", "chat.yaml", "--data.block_size=50")
    assert result.status == 0, result.err
    assert "warning: 8 rows, the first is row 1: its answer is cut off at block_size" in result.out
    assert "3 cut to the block" in result.out


def test_colours_in_a_terminal(project: Path) -> None:
    status, pieces = run_in_terminal(
        project, "inspect-data", "--config", "chat.yaml", "--rows", "1", TERM="xterm-256color"
    )
    out = b"".join(pieces).decode()
    assert status == 0, out
    assert "\x1b[1;32mGood day.<|im_end|>\x1b[0m" in out
    assert "⟦" not in out


def test_text_needs_no_model(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    (tmp_path / "input.txt").write_text(TEXT * 20)
    result = run(tmp_path, "inspect-data", "--config", "tiny.yaml", "--rows", "0")
    assert result.status == 0, result.err
    assert "94.1% of them learned; 0.0% of all positions is padding" in result.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rows", "-1"], "--rows -1 must be at least 0"),
        (["--data.sources=[none.jsonl]"], "source none.jsonl does not exist"),
        (["--data.shap=x"], "has no option 'shap'; did you mean 'shape'?"),
    ],
)
def test_wrong_input(project: Path, flags: list[str], said: str) -> None:
    result = run(project, "inspect-data", "--config", "chat.yaml", *flags)
    assert said in result.complaint


def test_histogram_counts_every_length_once() -> None:
    assert histogram([3, 3, 5]) == [
        "3 to 3  ########################################  2",
        "4 to 4                                            0",
        "5 to 5  ####################                      1",
    ]
    lines = histogram(list(range(1, 101)) + [100] * 10)
    assert len(lines) == 10
    assert sum(int(line.split()[-1]) for line in lines) == 110

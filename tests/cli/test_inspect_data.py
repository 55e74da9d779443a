"""lit-gpt inspect-data: what it shows, what it warns of, and that it leaves nothing."""

import json
from pathlib import Path
from unittest import mock

import pytest

from tests.command import CONFIG, TEXT, run, run_in_terminal
from tests.transformers_models import build, save

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

CLASSIFY = """\
model:
  class_path: lit_gpt_kit.SequenceClassification
  init_args: {gpt: {num_layers: 1, num_heads: 2, embed_dim: 16, block_size: 32}}
data:
  class_path: lit_gpt_kit.ClassificationDataModule
  init_args: {sources: [rows.csv], val_fraction: 0.2, tokenizer: {kind: byte}, cache_dir: cache}
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
    assert lines[2] == "row 1: 53 tokens, 10 learned"
    assert lines[3:6] == [
        "<|im_start|>user⏎",
        "Hi<|im_end|>⏎",
        "<|im_start|>assistant⏎",
    ]
    assert lines[6] == "⟦Good day.<|im_end|>⟧"
    assert "all 3 rows of an epoch: 159 tokens, 18.9% of them learned" in result.out
    assert "nothing looks wrong" in result.out
    assert lines[-1] == "next: lit-gpt fit --config chat.yaml"
    assert "\x1b" not in result.out
    left = {path.name for path in project.iterdir()} - {"home"}  # where the tests' commands live
    assert left == {*before, "cache"}


def test_packed_conversations_stand_apart(project: Path) -> None:
    result = run(project, "inspect-data", "--config", "chat.yaml", "--data.pack=true")
    assert "row 2: 106 tokens, 20 learned" in result.out
    first, second = result.out.split("─" * 80)
    assert first.endswith("⟦Good day.<|im_end|>⟧\n")
    assert second.startswith("\n<|im_start|>user⏎\nHi")
    assert "all 2 rows of an epoch: 3 documents, 159 tokens" in result.out


def test_warns_with_the_first_row(project: Path) -> None:
    result = run(project, "inspect-data", "--config", "chat.yaml", "--data.block_size=50")
    assert result.status == 0, result.err
    assert "warning: 3 rows, the first is row 1: an answer in it is cut off at bloc" in result.out
    assert "3 cut to the block" in result.out


def test_next_command_is_what_was_typed(project: Path) -> None:
    flags = ["-c", "chat.yaml", "--data.sources=[chats.jsonl]"]
    for rows in (["--rows", "0"], ["--rows=0"]):
        result = run(project, "inspect-data", *rows, *flags)
        command = "next: lit-gpt fit -c chat.yaml '--data.sources=[chats.jsonl]'"
        assert result.out.splitlines()[-1] == command


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_in_a_terminal(project: Path, no_color: bool) -> None:
    env = {"TERM": "xterm-256color", **({"NO_COLOR": "1"} if no_color else {})}
    status, pieces = run_in_terminal(
        project, "inspect-data", "--config", "chat.yaml", "--rows", "1", **env
    )
    out = b"".join(pieces).decode()
    assert status == 0, out
    assert ("⟦" in out) == no_color
    assert ("\x1b[1;32mGood day.\x1b[0m\x1b[1;4;32m<|im_end|>\x1b[0m" in out) != no_color


def test_text_needs_no_model(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    (tmp_path / "input.txt").write_text(TEXT * 20)
    result = run(tmp_path, "inspect-data", "--config", "tiny.yaml", "--rows", "0")
    assert result.status == 0, result.err
    assert "94.1% of them learned; 0.0% of all positions is padding" in result.out


@pytest.mark.parametrize("has_adapters", [False, True])
def test_no_weights_are_read(project: Path, has_adapters: bool) -> None:
    save(build("llama", "grouped", max_position_embeddings=96), project / "base")
    ours = "gpt: {num_layers: 1, num_heads: 2, embed_dim: 16, block_size: 128}"
    lora = ", lora: {rank: 2}" if has_adapters else ""
    config = CHAT.replace(ours, f"pretrained: base{lora}").replace("{kind: byte", "null #")
    (project / "tune.yaml").write_text(config)
    with mock.patch("lit_gpt_kit.tasks.base.load_model", side_effect=AssertionError):
        result = run(project, "inspect-data", "--config", "tune.yaml")
    assert result.status == 0, result.err
    assert "⟦Good day.<|im_end|>⟧" in result.out


def test_labelled_rows_have_names(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "a good film,yes\na bad one,no\n" * 5)
    (tmp_path / "classify.yaml").write_text(CLASSIFY)
    result = run(tmp_path, "inspect-data", "--config", "classify.yaml", "--rows", "9")
    assert result.status == 0, result.err
    assert "loss falls on the label" in result.out
    assert "tokens, label yes\na good film\n" in result.out
    assert "tokens, label no\na bad one\n(padding: 2)\n" in result.out
    assert "all 8 rows of an epoch: 80 tokens; 9.1% of all positions is padding" in result.out


def test_a_configuration_for_other_machines_is_looked_at_here(project: Path) -> None:
    result = run(
        project,
        "inspect-data",
        "--config=chat.yaml",
        "--trainer.accelerator=gpu",
        "--trainer.devices=8",
        "--trainer.precision=bf16-mixed",
        "--trainer.callbacks=[lightning.pytorch.callbacks.ModelCheckpoint]",
    )
    assert result.status == 0, result.err
    assert "nothing looks wrong" in result.out


def test_help_is_of_this_command(tmp_path: Path) -> None:
    out = run(tmp_path, "inspect-data", "--help").out
    assert out.startswith("usage: lit-gpt inspect-data [")
    assert "Shows rows as the model gets them" in out


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

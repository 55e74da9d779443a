"""`lit-gpt tokenizer train | inspect`."""

import json
import re
from pathlib import Path

import pytest

from lit_gpt_kit import Tokenizer, TokenizerConfig
from lit_gpt_kit.tokenization.training import train_tokenizer
from tests.command import TEXT, run, run_process


def train(project: Path, *flags: str) -> Tokenizer:
    arguments = ("train", "--sources", "input.txt", "--output", "out.json", *flags)
    result = run(project, "tokenizer", *arguments)
    assert result.status == 0, result.err
    return Tokenizer.from_file(project / "out.json")


def test_help_names_both(tmp_path: Path) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        result = run(tmp_path, "tokenizer", *arguments)
        assert result.status == 0
        assert "train " in result.out
        assert "inspect " in result.out


def test_trains_bpe_by_default(project: Path) -> None:
    tokenizer = train(project, "--vocab_size", "270")
    assert tokenizer.vocab_size == 270
    assert tokenizer.end_token == "<|endoftext|>"
    assert len(tokenizer.encode(TEXT)) < len(TEXT)
    assert tokenizer.decode(tokenizer.encode("äöü fox")) == "äöü fox"


@pytest.mark.parametrize(("kind", "vocab_size"), [("byte", 257), ("char", len(set(TEXT)))])
def test_trains_the_other_kinds(kind: str, vocab_size: int, project: Path) -> None:
    tokenizer = train(project, "--kind", kind)
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"


def test_special_tokens_come_first_in_their_order(project: Path) -> None:
    tokenizer = train(project, "--vocab_size=300", "--special_tokens", "<end>", "<user>")
    assert [tokenizer.backend.token_to_id(token) for token in ("<end>", "<user>")] == [0, 1]
    assert tokenizer.encode("<user>the") != tokenizer.encode("user>the")


def test_sources_are_many_and_fields_are_named(project: Path) -> None:
    (project / "more.jsonl").write_text(json.dumps({"body": "ZZZ" * 10}) + "\n")
    arguments = ("--sources", "input.txt", "more.jsonl", "--text_field", "body")
    result = run(project, "tokenizer", "train", *arguments, "--kind=char", "--output=new/out.json")
    assert result.status == 0, result.err
    tokenizer = Tokenizer.from_file(project / "new" / "out.json")
    assert tokenizer.vocab_size == len(set(TEXT) | {"Z"})


def test_train_says_what_it_made_and_what_comes_next(project: Path) -> None:
    arguments = ("train", "--sources", "input.txt", "--output", "out.json", "--kind=byte")
    result = run(project, "tokenizer", *arguments)
    made, following = result.out.splitlines()
    assert made == "byte tokenizer with 257 tokens: out.json"
    command = "lit-gpt tokenizer inspect out.json --text 'some text'"
    assert following == f"next: {command}"
    inspected = run(project, "tokenizer", "inspect", "out.json", "--text", "some text")
    assert inspected.status == 0, inspected.err
    assert result.err.startswith("reading ...\nreading: ")


def test_inspect_shows_a_token_a_line(project: Path) -> None:
    train_tokenizer(TokenizerConfig("byte"), []).save(project / "bytes.json")
    result = run(project, "tokenizer", "inspect", "bytes.json", "--text", "a é\n")
    assert result.err == ""
    lines = result.out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["id", "bytes", "token"],
        ["97", "1", "'a'"],
        ["32", "1", "'", "'"],
        ["195", "1", "'�'"],
    ]
    assert len({line.index("'") for line in lines[1:6]}) == 1  # columns stand under each other
    assert lines[5].split() == ["10", "1", r"'\n'"]
    assert lines[-1] == (
        "5 tokens for 5 bytes (1.00 bytes a token); vocabulary 257, end token <|endoftext|>"
    )


def test_inspect_shows_whole_words(project: Path) -> None:
    tokenizer = train(project, "--vocab_size=320")
    result = run(project, "tokenizer", "inspect", "out.json", "--text", " brown")
    rows = [line.split() for line in result.out.splitlines()[1:-1]]
    assert [int(row[0]) for row in rows] == tokenizer.encode(" brown")
    assert sum(int(row[1]) for row in rows) == len(" brown")
    assert re.search(r"^1 tokens for 6 bytes \(6.00 bytes a token\)", result.out, re.M)


def test_inspect_of_no_text(project: Path) -> None:
    train_tokenizer(TokenizerConfig("byte"), []).save(project / "bytes.json")
    result = run(project, "tokenizer", "inspect", "bytes.json", "--text", "")
    assert result.status == 0, result.err
    assert "0 tokens for 0 bytes" in result.out


def test_installed_command_trains(project: Path) -> None:
    arguments = ("train", "--sources", "input.txt", "--output", "out.json", "--vocab_size=300")
    result = run_process(project, "tokenizer", *arguments, cold=True)
    assert result.status == 0, result.err
    assert "\x1b" not in result.out + result.err
    assert Tokenizer.from_file(project / "out.json").vocab_size <= 300

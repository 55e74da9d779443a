"""What looks wrong with rows is found where it is, and what is right is left alone."""

import json
from pathlib import Path

import pytest

from lit_gpt_kit import InstructionDataModule, TokenizerConfig
from lit_gpt_kit.data.inspection import CUT, NO_END, NO_LOSS, TWO_BEGINS, Findings, look_at
from lit_gpt_kit.data.read_back import InspectedRow, Token, rows_of_an_epoch
from lit_gpt_kit.tokenization.chat_template import chat_end_ids

BEGIN, END = ord("b"), ord("z")


def row_of(*documents: str, label: int | None = None) -> InspectedRow:
    """A row of one-letter tokens, capital ones learned."""
    tokens = [
        tuple(Token(ord(letter.lower()), letter.isupper()) for letter in document)
        for document in documents
    ]
    return InspectedRow(tuple(tokens), 20, 3, label)


def test_troubles_of_conversations_are_found_where_they_are() -> None:
    rows = [
        row_of("aaBZ"),  # fine
        row_of("abc", "aBZ"),
        row_of("aB", "aBC"),
        row_of("bbaZ", "aaaaaB"),
        row_of("abc"),
        row_of("aBZaBaBZ"),  # the answer in the middle does not end
        row_of("aaBZaa"),  # cut behind an answer
    ]
    findings = look_at(rows, BEGIN, [END], block_size=5)
    assert findings.suspects == {NO_LOSS: [2, 5], NO_END: [3, 6], TWO_BEGINS: [4], CUT: [4]}
    assert findings.lengths == [4, 3, 3, 2, 3, 4, 6, 3, 8, 6]
    assert findings.num_tokens == sum(row.num_tokens for row in rows) == 42
    assert findings.num_learned == 2 + 2 + 3 + 2 + 5 + 2
    assert (findings.num_rows, findings.num_positions, findings.num_padding) == (7, 140, 21)


def test_text_need_not_end_and_may_begin_with_a_last_token() -> None:
    findings = look_at([row_of("a", "aBCD"), row_of("a")], BEGIN)
    assert findings.suspects == {NO_LOSS: [2]}


def test_of_labelled_rows_no_token_is_learned() -> None:
    assert look_at([row_of("abc", label=0), row_of("bba", label=1)], BEGIN).suspects == {
        TWO_BEGINS: [2]
    }


def test_no_rows_are_no_trouble() -> None:
    assert look_at([]) == Findings()


@pytest.mark.parametrize(
    ("template", "block_size", "found"),
    [
        ("chatml", 400, {}),
        ("alpaca", 400, {}),
        ("plain", 400, {}),
        ("chatml", 50, {CUT: [1, 2]}),
        ("endless.jinja", 400, {NO_END: [1, 2]}),
        ("twice.jinja", 400, {TWO_BEGINS: [1, 2]}),
    ],
)
def test_real_conversations(
    template: str, block_size: int, found: dict[str, list[int]], tmp_path: Path
) -> None:
    turn = "{% for m in messages %}{{ m.role + ':' + m.content + %s }}{% endfor %}"
    (tmp_path / "endless.jinja").write_text(turn.replace("%s", "'\n'"))
    begins = "<|endoftext|>" * 2
    (tmp_path / "twice.jinja").write_text(begins + turn.replace("%s", "'<|endoftext|>'"))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]
    more = [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Good night."}]
    chats = [turns, turns + more]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"messages": c}) + "\n" for c in chats))
    is_file = template.endswith(".jinja")
    data = InstructionDataModule(
        [str(tmp_path / "a.jsonl")],
        val_fraction=0.0,
        tokenizer=TokenizerConfig("byte", special_tokens=("<|endoftext|>", "<|im_end|>")),
        chat_template=str(tmp_path / template) if is_file else template,
        batch_size=1,
        block_size=block_size,
        cache_dir=str(tmp_path / "cache"),
        seed=0,
    )
    data.prepare_data()
    data.setup("fit")
    rows = rows_of_an_epoch(data.train_dataloader())
    end_ids, begin_id = chat_end_ids(data.tokenizer), data.tokenizer.end_id
    assert look_at(rows, begin_id, end_ids, data.block_size).suspects == found

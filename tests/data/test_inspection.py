"""Rows read back from batches, token by token, and the troubles that are found in them."""

import json
from pathlib import Path

import pytest
import torch

from lit_gpt_kit import InstructionDataModule, TextDataModule, TokenizerConfig
from lit_gpt_kit.data.inspection import (
    CUT,
    NO_END,
    NO_LOSS,
    TWO_BEGINS,
    InspectedRow,
    Token,
    look_at,
    read_rows_of,
)
from lit_gpt_kit.tokenization.chat_template import chat_end_ids, render_chat

BYTES = TokenizerConfig("byte", special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


def chat(question: str, answer: str) -> dict[str, list[dict[str, str]]]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def make_chats(folder: Path, block_size: int = 200, **options: object) -> InstructionDataModule:
    path = folder / "chats.jsonl"
    rows = [chat("Hi", "Good day."), chat("How late?", "Noon."), chat("x" * 30, "y")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = InstructionDataModule(
        sources=[str(path)],
        val_fraction=0.0,
        tokenizer=BYTES,
        batch_size=3,
        block_size=block_size,
        cache_dir=str(folder / "cache"),
        seed=0,
        **options,  # type: ignore[arg-type]
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("pack", [False, True])
def test_conversations_are_read_back_whole(tmp_path: Path, pack: bool) -> None:
    data = make_chats(tmp_path, pack=pack)
    rows = list(read_rows_of(data.train_dataloader().batch(0)))
    documents = {
        (
            data.tokenizer.decode([token.id for token in document]),
            data.tokenizer.decode([token.id for token in document if token.is_learned]),
        )
        for row in rows
        for document in row.documents
    }
    turns = [("Hi", "Good day."), ("How late?", "Noon."), ("x" * 30, "y")]
    expected = set()
    for question, answer in turns:
        messages = chat(question, answer)["messages"]
        text = render_chat(data.tokenizer, messages, add_generation_prompt=False).rstrip("\n")
        expected.add((text, f"{answer}<|im_end|>"))
    assert documents == expected
    findings = look_at(rows, None, chat_end_ids(data.tokenizer), data.block_size)
    assert findings.suspects == {}
    learned = sum(len(answer) + 1 for _, answer in turns)
    assert findings.num_learned == learned * (findings.num_rows if pack else 1)


def test_text_is_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the quick brown fox " * 10)
    options = {"tokenizer": BYTES, "batch_size": 2, "block_size": 16, "seed": 0}
    data = TextDataModule([str(path)], cache_dir=str(tmp_path / "cache"), **options)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup("fit")
    batch = data.train_dataloader().batch(0)
    for number, row in enumerate(read_rows_of(batch)):
        (document,) = row.documents
        ids = [*batch["input_ids"][number].tolist(), int(batch["targets"][number, -1])]
        assert [token.id for token in document] == ids
        assert [token.is_learned for token in document] == [False] + [True] * 16
        assert row.num_positions == 16


def test_labelled_rows_end_at_their_last_token() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0], [0, 0, 0, 0]]),
        "last_token": torch.tensor([2, 0, 0]),
        "labels": torch.tensor([1, 0, -100]),
        "row": torch.tensor([4, 9, -1]),
    }
    rows = list(read_rows_of(batch))
    assert [[token.id for token in row.documents[0]] for row in rows] == [[5, 6, 7], [8]]
    assert [row.label for row in rows] == [1, 0]  # the row that fills up is none
    assert look_at(rows).suspects == {}


def row_of(*documents: str) -> InspectedRow:
    """A row of one-letter tokens, capital ones learned."""
    tokens = [
        tuple(Token(ord(letter.lower()), letter.isupper()) for letter in document)
        for document in documents
    ]
    return InspectedRow(tuple(tokens), 20)


def test_troubles_are_found_where_they_are() -> None:
    rows = [
        row_of("aaBZ"),  # fine
        row_of("abc", "aBZ"),
        row_of("aB", "aBC"),
        row_of("bbaZ", "aaaaaB"),
        row_of("abc"),
    ]
    findings = look_at(rows, begin_id=ord("b"), end_ids=[ord("z")], block_size=5)
    assert findings.suspects == {NO_LOSS: [2, 5], NO_END: [3], TWO_BEGINS: [4], CUT: [4]}
    assert findings.num_tokens == sum(row.num_tokens for row in rows) == 4 + 6 + 5 + 10 + 3
    assert findings.num_learned == 2 + 2 + 3 + 2
    assert findings.num_positions == 100


def test_cut_answers_are_told_from_those_that_never_end(tmp_path: Path) -> None:
    data = make_chats(tmp_path, block_size=32)
    rows = list(read_rows_of(data.train_dataloader().batch(0)))
    findings = look_at(rows, None, chat_end_ids(data.tokenizer), data.block_size)
    assert list(findings.suspects) == [CUT]
    assert max(findings.lengths) == 33

"""Rows read back from batches, token by token, of our data modules and of other people's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

from lit_gpt_kit import InstructionDataModule, TextDataModule, TokenizerConfig
from lit_gpt_kit.data.read_back import InspectedRow, read_rows_of, rows_of_an_epoch
from lit_gpt_kit.data.row_loader import RowTrainLoader
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.chat_template import render_chat
from lit_gpt_kit.tokenization.training import train_tokenizer

BYTES = TokenizerConfig("byte", special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


def spelled(row: InspectedRow) -> list[tuple[list[int], list[int]]]:
    """The ids of each document, and those of them that are learned."""
    return [
        ([token.id for token in document], [token.id for token in document if token.is_learned])
        for document in row.documents
    ]


@pytest.mark.parametrize("pack", [False, True])
def test_conversations_are_read_back_whole(tmp_path: Path, pack: bool) -> None:
    turns = [("Hi", "Good day."), ("How late?", "Noon."), ("x" * 30, "y")]
    chats = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in turns
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in chats))
    options: dict[str, Any] = {"tokenizer": BYTES, "batch_size": 2, "block_size": 200, "seed": 0}
    data = InstructionDataModule(
        [str(path)], val_fraction=0.0, pack=pack, cache_dir=str(tmp_path / "cache"), **options
    )
    data.prepare_data()
    data.setup("fit")
    rows = list(rows_of_an_epoch(data.train_dataloader()))
    texts = [render_chat(data.tokenizer, messages, False).rstrip("\n") for messages in chats]
    encode = data.tokenizer.encode
    expected = [
        (encode(text), encode(f"{answer}<|im_end|>"))
        for text, (_, answer) in zip(texts, turns, strict=True)
    ]
    assert sorted(part for row in rows for part in spelled(row)) == sorted(expected)
    if pack:  # all three fit into a row, which is read twice in a batch of two
        (row,) = rows
        assert (row.num_positions, row.num_padding) == (row.num_tokens - 3, 0)
    else:
        for row in rows:
            assert row.num_padding == row.num_positions - (row.num_tokens - 1)


def test_text_is_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the quick brown fox " * 10)
    options: dict[str, Any] = {"tokenizer": BYTES, "batch_size": 2, "block_size": 16, "seed": 0}
    data = TextDataModule([str(path)], cache_dir=str(tmp_path / "cache"), **options)
    data.prepare_data()
    data.setup("fit")
    batch = data.train_dataloader().batch(0)
    for number, row in enumerate(read_rows_of(batch)):
        ids = [*batch["input_ids"][number].tolist(), int(batch["targets"][number, -1])]
        assert spelled(row) == [(ids, ids[1:])]
        assert (row.num_positions, row.num_padding) == (16, 0)


def test_labelled_rows_end_at_their_last_token() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0], [0, 0, 0, 0]]),
        "last_token": torch.tensor([2, 0, 0]),
        "labels": torch.tensor([1, 0, -100]),
        "row": torch.tensor([4, 9, -1]),
    }
    rows = list(read_rows_of(batch))
    assert [spelled(row) for row in rows] == [[([5, 6, 7], [])], [([8], [])]]
    assert [row.label for row in rows] == [1, 0]  # the row that fills up is none
    assert [row.num_padding for row in rows] == [1, 3]


def test_as_many_labels_as_tokens_are_labels_still() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6]]),
        "last_token": torch.tensor([1]),
        "labels": torch.tensor([[1.0, 0.0]]),
    }
    (row,) = read_rows_of(batch)
    assert (row.label, row.num_learned) == ([1.0, 0.0], 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_of_transformers(side: str) -> None:
    backend = train_tokenizer(BYTES, []).backend
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|endoftext|>")
    tokenizer.padding_side = side
    features = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]},
        {"input_ids": [9, 3], "labels": [-100, 3]},
    ]
    batch = DataCollatorForSeq2Seq(tokenizer)(features)
    rows = list(read_rows_of(batch))
    assert [spelled(row) for row in rows] == [[([5, 6, 7, 8], [7, 8])], [([9, 3], [3])]]
    assert [row.num_padding for row in rows] == [0, 2]
    assert [row.label for row in rows] == [None, None]


def test_every_row_of_an_epoch_is_read_once() -> None:
    def collate(rows: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(rows)[:, None] + 1
        return {"input_ids": ids, "targets": ids}

    loader = RowTrainLoader(np.ones(5, dtype=np.int64), collate, batch_size=4, seed=0)
    rows = [row.documents[0][0].id for row in rows_of_an_epoch(loader)]
    assert sorted(rows) == [1, 2, 3, 4, 5]
    in_training = [int(batch) for n in range(2) for batch in loader.batch(n)["input_ids"][:, 0]]
    assert rows == list(dict.fromkeys(in_training))


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({"input_ids": torch.tensor([n]), "targets": torch.tensor([n])} for n in (1, 2, 3))


def test_a_stream_has_no_length() -> None:
    rows = list(rows_of_an_epoch(DataLoader(Stream(), batch_size=2)))
    assert [spelled(row) for row in rows] == [[([n, n], [n])] for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ([torch.ones(2), torch.ones(2)], "a batch is a list; what can be shown is a dict"),
        ({"x": torch.ones(2), "y": 1}, "a batch is a dict with x, y; what can be shown"),
    ],
)
def test_a_batch_of_something_else(batch: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(read_rows_of(batch))

"""Batches of conversations: the same loss padded, packed or one at a time."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_gpt_kit import (
    GPT,
    GPTConfig,
    InstructionDataModule,
    LanguageModeling,
    TokenizerConfig,
)
from lit_gpt_kit.data.chat_batches import ChatRows, PackedRows
from lit_gpt_kit.data.row_loader import FILLER
from lit_gpt_kit.data.token_rows import TokenRows
from lit_gpt_kit.model.loss import IGNORE_INDEX

Chat = list[tuple[int, bool]]
"""The tokens of a conversation, each with whether it is to be learned."""
VOCABULARY, BLOCK = 50, 16
CHATS = st.lists(
    st.lists(st.tuples(st.integers(0, VOCABULARY - 1), st.booleans()), min_size=2, max_size=30),
    min_size=1,
    max_size=12,
)


def chat_rows(chats: list[Chat]) -> ChatRows:
    """All of these conversations, cut to a block."""
    store: Any = SimpleNamespace(
        tokens=TokenRows.of([[token for token, _ in chat] for chat in chats]),
        is_target=TokenRows.of([[wanted for _, wanted in chat] for chat in chats], np.bool_),
    )
    lengths = np.minimum(store.tokens.lengths - 1, BLOCK)
    return ChatRows(store, np.arange(len(chats)), lengths)


def random_chats(num_chats: int) -> list[Chat]:
    rng = np.random.default_rng(0)
    return [
        list(zip(rng.integers(0, VOCABULARY, n).tolist(), (rng.random(n) < 0.5), strict=True))
        for n in rng.integers(2, BLOCK + 5, num_chats)
    ]


def learned(batch: dict[str, Tensor]) -> list[tuple[int, int]]:
    """What is read and what is to be guessed, wherever a loss falls."""
    wanted = batch["targets"] != IGNORE_INDEX
    pairs = zip(batch["input_ids"][wanted].tolist(), batch["targets"][wanted].tolist(), strict=True)
    return sorted(pairs)


def expected(chats: list[Chat]) -> list[tuple[int, int]]:
    cut = [chat[: BLOCK + 1] for chat in chats]
    return sorted(
        (before[0], token) for chat in cut for before, (token, wanted) in pairwise(chat) if wanted
    )


@settings(deadline=None)
@given(chats=CHATS)
def test_padded_batches_are_the_masked_tokens_shifted(chats: list[Chat]) -> None:
    rows = chat_rows(chats)
    batch = rows.collate(np.array([*range(len(chats)), FILLER]))
    width = max(min(len(chat) - 1, BLOCK) for chat in chats)
    assert batch["input_ids"].shape == batch["targets"].shape == (len(chats) + 1, width)
    for place, chat in enumerate([*chats, [(0, False)]]):
        ids = [token for token, _ in chat][:BLOCK] if place < len(chats) else []
        ids = ids[: len(chat) - 1]
        wanted = [token if w else IGNORE_INDEX for token, w in chat][1 : BLOCK + 1]
        assert batch["input_ids"][place].tolist() == ids + [0] * (width - len(ids))
        padding = [IGNORE_INDEX] * (width - len(wanted))
        assert batch["targets"][place].tolist() == wanted + padding
    positions = batch["target_positions"].tolist()
    flat = batch["targets"].flatten()
    assert positions == [n for n, target in enumerate(flat.tolist()) if target != IGNORE_INDEX]


@settings(deadline=None)
@given(chats=CHATS)
def test_packed_batches_hold_the_same_and_keep_it_apart(chats: list[Chat]) -> None:
    packed = PackedRows.of(chat_rows(chats), BLOCK)
    batch = packed.collate(np.arange(len(packed.bins)))
    assert packed.lengths.max() <= BLOCK
    assert packed.lengths.sum() == sum(min(len(chat) - 1, BLOCK) for chat in chats)
    assert batch["input_ids"].shape == (len(packed.bins), packed.lengths.max())
    assert learned(batch) == expected(chats)
    for place, documents in enumerate(batch["document_ids"].tolist()):
        of_bin = [min(len(chats[row]) - 1, BLOCK) for row in packed.bins[place]]
        apart = [n for n, length in enumerate(of_bin) for _ in range(length)]
        assert documents == apart + [-1] * (len(documents) - len(apart))


def test_packing_takes_fewer_rows() -> None:
    rows = chat_rows(random_chats(200))
    packed = PackedRows.of(rows, BLOCK)
    assert rows.lengths.sum() / (len(packed.bins) * BLOCK) > 0.95


def test_a_batch_of_fillers_alone() -> None:
    rows = chat_rows(random_chats(2))
    for kind in (rows, PackedRows.of(rows, BLOCK)):
        batch = kind.collate(np.array([FILLER, FILLER]))
        assert batch["input_ids"].tolist() == [[0], [0]]
        assert batch["targets"].tolist() == [[IGNORE_INDEX]] * 2
        assert batch["target_positions"].tolist() == []


# ---- the loss of a network ----


def loss_of(network: GPT, batches: list[dict[str, Tensor]]) -> tuple[float, list[Tensor]]:
    """The summed loss of these batches and its gradients."""
    task = LanguageModeling(network.config)
    task.model = network
    network.zero_grad()
    total, count = 0.0, 0
    for batch in batches:
        loss, num_targets = task.compute_loss(batch)
        loss.backward()
        total += float(loss.detach())
        count += int(num_targets)
    assert count == sum(len(batch["target_positions"]) for batch in batches)
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    return total, gradients


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "none"])
def test_padded_packed_and_alone_have_the_same_loss(position: Any) -> None:
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=VOCABULARY,
        block_size=BLOCK,
        num_layers=2,
        num_heads=2,
        embed_dim=16,
        position=position,
        init_std=0.2,
    )
    network = GPT(config)
    rows = chat_rows(random_chats(24))
    packed = PackedRows.of(rows, BLOCK)
    assert max(map(len, packed.bins)) > 2
    alone, gradients = loss_of(network, [rows.collate(np.array([n])) for n in range(24)])
    fillers = rows.collate(np.array([FILLER, FILLER]))
    others = {
        "padded": [rows.collate(np.arange(start, start + 6)) for start in (0, 6, 12, 18)],
        "packed": [packed.collate(np.arange(len(packed.bins)))],
        "filled up": [rows.collate(np.array([*range(24), FILLER])), fillers],
    }
    for name, batches in others.items():
        total, theirs = loss_of(network, batches)
        assert total == pytest.approx(alone, rel=1e-5), name
        for one, other in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_rows_have_the_numbers_of_the_file(tmp_path: Path) -> None:
    """`predict` writes them in the file's order, and fillers not at all."""
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "x" * n, "completion": "y"} for n in (9, 1, 30, 4, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = InstructionDataModule(
        sources=[str(path)],
        val_fraction=0.0,
        predict_sources=[str(path)],
        tokenizer=TokenizerConfig("byte"),
        batch_size=2,
        block_size=200,
        cache_dir=str(tmp_path / "cache"),
    )
    data.prepare_data()
    data.setup("predict")
    seen = {}
    for batch in data.predict_dataloader():
        for number, ids in zip(batch["row"].tolist(), batch["input_ids"], strict=True):
            seen[number] = data.tokenizer.decode(ids.tolist()).count("x")
    assert seen.pop(-1) == 0
    assert seen == dict(enumerate((9, 1, 30, 4, 2)))

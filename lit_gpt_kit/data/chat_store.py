"""Conversations as tokens on disk, with the mask of what is learned; made once."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_gpt_kit.data.cache import build_once, flush_to_disk, hash_content
from lit_gpt_kit.data.conversations import Conversation
from lit_gpt_kit.data.token_rows import TokenRows
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.answer_spans import LossOn
from lit_gpt_kit.tokenization.chat_training import TrainingChat, encode_training_chats
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

FORMAT_VERSION = 3
"""Part of every cache key; raise it when the files' meaning changes."""
CONVERSATIONS_AT_ONCE = 1024
"""Encoded in parallel; so many are in memory as text."""
FILES = ("ids", "is_target", "ends")
HASH_FILE = "sha256"
LEFT_OUT = TrainingChat([], [])
Placed = tuple[Conversation | None, str]
"""A conversation, or none where a row is left out, and the place where the row stands."""


class ChatStore:
    """The tokens of conversations, one behind the other, memory-mapped.

    Attributes:
        tokens: a row for each conversation, up to the end of its last answer; an empty one where it
            is left out.
        is_target: for each token, whether the model is to write it.
        sha256: of all of it.
    """

    def __init__(self, folder: Path) -> None:
        ids, is_target, ends = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in FILES
        )
        if len(ids) != len(is_target) or len(ids) != (int(ends[-1]) if len(ends) else 0):
            raise ValueError(f"the files of {folder} do not belong together")
        self.tokens = TokenRows(ids, np.asarray(ends))
        self.is_target = TokenRows(is_target, self.tokens.ends)
        self.sha256 = (folder / HASH_FILE).read_text()


def open_or_build(
    folder: Path,
    conversations: Callable[[], Iterable[Placed]],
    tokenizer: Tokenizer,
    loss_on: LossOn,
    on_progress: Callable[[int], None] = lambda num_characters: None,
) -> ChatStore:
    """The store in `folder`, made from `conversations` if it is not there yet.

    Args:
        folder: where the store lies; its name should change with all that it is made of.
        conversations: opens the stream of conversations, each with the place where it stands.
        tokenizer: encodes them, laid out by its chat template.
        loss_on: which answers are learned.
        on_progress: called with the characters of text each time some are done.

    Raises:
        InputError: there is no conversation, one is out of order, or the disk is full.
    """

    def write(unfinished: Path) -> None:
        ids: list[NDArray[np.uint32]] = []
        masks: list[NDArray[np.bool_]] = []
        for batch in _batches(conversations()):
            kept = [(found.messages, place) for found, place in batch if found is not None]
            messages, places = [turns for turns, _ in kept], [place for _, place in kept]
            chats = iter(encode_training_chats(tokenizer, messages, loss_on, places))
            for found, _ in batch:
                chat = LEFT_OUT if found is None else next(chats)
                mask = np.array(chat.is_target, dtype=np.bool_)
                # What stands behind the last answer is not learned, and nothing is learned from it.
                length = int(mask.nonzero()[0][-1]) + 1 if mask.any() else 1
                ids.append(np.array(chat.ids[:length], dtype=np.uint32))
                masks.append(mask[:length])
            on_progress(sum(len(m["content"]) for turns in messages for m in turns))
        if not any(map(len, ids)):
            raise InputError(
                f"the sources hold no conversation; {len(ids)} rows are left out for an empty text"
            )
        ends = np.cumsum([len(row) for row in ids], dtype=np.int64)
        arrays: list[NDArray[Any]] = [np.concatenate(ids), np.concatenate(masks), ends]
        for name, array in zip(FILES, arrays, strict=True):
            with (unfinished / f"{name}.npy").open("wb") as file:
                # Of a full disk np.save says no more than that something was not written.
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(file, header)
                file.write(array.data)
                flush_to_disk(file)
        with (unfinished / HASH_FILE).open("wb") as file:
            file.write(hash_content(arrays).encode())
            flush_to_disk(file)

    build_once(folder, _is_whole, write)
    return ChatStore(folder)


def _batches(conversations: Iterable[Placed]) -> Iterator[list[Placed]]:
    stream = iter(conversations)
    while batch := list(islice(stream, CONVERSATIONS_AT_ONCE)):
        yield batch


def _is_whole(folder: Path) -> bool:
    try:
        ChatStore(folder)
    except (OSError, ValueError, EOFError, TypeError):
        return False
    return True

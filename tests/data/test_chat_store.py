"""Stores of conversations: the tokenizer's tokens and masks, made once, whole or not at all."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from lit_gpt_kit.data import chat_store
from lit_gpt_kit.data.chat_store import ChatStore, Placed, open_or_build
from lit_gpt_kit.data.conversations import Conversation
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.answer_spans import LossOn
from lit_gpt_kit.tokenization.chat_training import encode_training_chat
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from tests.data.processes import kill_half_way, race

PREAMBLE = """
import hashlib, sys, time
from pathlib import Path
from lit_gpt_kit.data import chat_store
from lit_gpt_kit.data.conversations import Conversation
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer

chat_store.CONVERSATIONS_AT_ONCE = 10
tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
folder, log = Path(sys.argv[1]), Path(sys.argv[2])

def conversation(i):
    turns = [{"role": "user", "content": "a" * i}, {"role": "assistant", "content": "b" * i}]
    return Conversation(turns), f"x.jsonl, line {i}"
"""
RACE = """
def conversations():
    with log.open("a") as file:
        file.write("built\\n")
    for i in range(1, 101):
        time.sleep(0.002)
        yield conversation(i)

print("ready", flush=True)
sys.stdin.readline()
store = chat_store.open_or_build(folder, conversations, tokenizer, "every")
print(hashlib.sha256(store.tokens.values.tobytes()).hexdigest(), flush=True)
"""
STOP_HALF_WAY = """
def conversations():
    for i in range(1, 51):
        yield conversation(i)
    print("half-way", flush=True)
    time.sleep(600)

chat_store.open_or_build(folder, conversations, tokenizer, "every")
"""


def conversation(i: int) -> Placed:
    turns = [{"role": "user", "content": "a" * i}, {"role": "assistant", "content": "b" * i}]
    return Conversation(turns), f"x.jsonl, line {i}"


def chatml(i: int) -> str:
    """The layout, up to the end of the answer."""
    return f"<|im_start|>user\n{'a' * i}<|im_end|>\n<|im_start|>assistant\n{'b' * i}<|im_end|>"


def build(
    folder: Path, placed: list[Placed], tokenizer: Tokenizer, loss_on: LossOn = "every"
) -> ChatStore:
    return open_or_build(folder, lambda: placed, tokenizer, loss_on)


def unread() -> Iterator[Placed]:
    raise AssertionError("the sources were read")
    yield


def rows(store: ChatStore) -> list[bytes]:
    return [bytes(store.tokens.row(n).tolist()) for n in range(len(store.tokens))]


def learned(store: ChatStore, number: int) -> bytes:
    return bytes(store.tokens.row(number)[store.is_target.row(number)].tolist())


@pytest.mark.parametrize("at_once", [1, 2, 1024])
def test_contents_are_the_tokens_and_their_mask(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(chat_store, "CONVERSATIONS_AT_ONCE", at_once)
    done: list[int] = []
    placed = [conversation(3), conversation(1), (None, "x.jsonl, line 3"), conversation(2)]
    store = open_or_build(tmp_path / "a", lambda: placed, byte_tokenizer, "every", done.append)
    assert rows(store) == [chatml(3).encode(), chatml(1).encode(), b"", chatml(2).encode()]
    answers = [b"bbb<|im_end|>", b"b<|im_end|>", b"", b"bb<|im_end|>"]
    assert [learned(store, number) for number in range(4)] == answers
    assert sum(done) == 2 * (3 + 1 + 2)
    assert store.tokens.values.dtype == np.uint32
    assert isinstance(store.tokens.values, np.memmap)
    assert not store.tokens.values.flags.writeable


@pytest.mark.parametrize("loss_on", ["every", "last"])
def test_which_answers_are_learned(
    tmp_path: Path, byte_tokenizer: Tokenizer, loss_on: LossOn
) -> None:
    answered = [*conversation(1)[0].messages, *conversation(2)[0].messages]  # type: ignore[union-attr]
    turns = [*answered, {"role": "user", "content": "thanks, which nobody learns from"}]
    store = build(tmp_path / "a", [(Conversation(turns), "x")], byte_tokenizer, loss_on)
    assert learned(store, 0) == (b"b<|im_end|>" if loss_on == "every" else b"") + b"bb<|im_end|>"
    chat = encode_training_chat(byte_tokenizer, turns, loss_on)
    length = len(store.tokens.row(0))
    assert store.tokens.row(0).tolist() == chat.ids[:length]
    assert store.is_target.row(0).tolist() == chat.is_target[:length]
    assert not any(chat.is_target[length:])


def test_a_store_is_made_once(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    first = build(tmp_path / "a", [conversation(1)], byte_tokenizer)
    again = open_or_build(tmp_path / "a", unread, byte_tokenizer, "every")
    assert rows(again) == rows(first)


@pytest.mark.parametrize("placed", [[], [(None, "x.jsonl, line 1")]])
def test_without_a_conversation_there_is_no_store(
    tmp_path: Path, byte_tokenizer: Tokenizer, placed: list[Placed]
) -> None:
    with pytest.raises(InputError, match="the sources hold no conversation"):
        build(tmp_path / "a", placed, byte_tokenizer)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["a.lock"])


def test_a_conversation_that_is_wrong_is_named(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    wrong = Conversation([{"role": "assistant", "content": "b"}])
    placed = [conversation(1), (None, "x.jsonl, line 2"), (wrong, "x.jsonl, line 3")]
    with pytest.raises(InputError, match=r"^x\.jsonl, line 3: message 1 is from the assistant"):
        build(tmp_path / "a", placed, byte_tokenizer)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["a.lock"])
    assert rows(build(tmp_path / "a", placed[:1], byte_tokenizer)) == [chatml(1).encode()]


def cut(folder: Path) -> None:
    path = folder / "ids.npy"
    path.write_bytes(path.read_bytes()[:-2])


def cut_header(folder: Path) -> None:
    path = folder / "ends.npy"
    path.write_bytes(path.read_bytes()[:30])


def empty(folder: Path) -> None:
    (folder / "is_target.npy").write_bytes(b"")


def zero(folder: Path) -> None:
    path = folder / "ends.npy"
    path.write_bytes(bytes(path.stat().st_size))


def remove(folder: Path) -> None:
    (folder / "ends.npy").unlink()


def swap(folder: Path) -> None:
    np.save(folder / "is_target.npy", np.ones(3, dtype=np.bool_))


def end_elsewhere(folder: Path) -> None:
    np.save(folder / "ends.npy", np.load(folder / "ends.npy") - 1)


def flatten_away(folder: Path) -> None:
    np.save(folder / "ids.npy", np.uint32(7))


@pytest.mark.parametrize(
    "damage", [cut, cut_header, empty, zero, remove, swap, end_elsewhere, flatten_away]
)
def test_damage_is_noticed_and_mended(
    tmp_path: Path, byte_tokenizer: Tokenizer, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "a"
    placed = [conversation(1), conversation(2)]
    build(folder, placed, byte_tokenizer)
    damage(folder)
    store = build(folder, placed, byte_tokenizer)
    assert rows(store) == [chatml(1).encode(), chatml(2).encode()]
    assert learned(store, 1) == b"bb<|im_end|>"


def test_two_processes_make_one_store(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache" / "a", tmp_path / "log"
    text = "".join(map(chatml, range(1, 101))).encode()
    expected = np.frombuffer(text, dtype=np.uint8).astype(np.uint32).tobytes()
    assert race(PREAMBLE + RACE, folder, log) == [hashlib.sha256(expected).hexdigest()] * 2
    assert log.read_text() == "built\n"
    files = ["ends.npy", "ids.npy", "is_target.npy", "sha256"]
    assert sorted(path.name for path in folder.iterdir()) == files


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_store(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    folder = tmp_path / "a"
    kill_half_way(PREAMBLE + STOP_HALF_WAY, folder, tmp_path / "log")
    assert not folder.exists()
    assert (tmp_path / "a.unfinished").exists()
    assert rows(build(folder, [conversation(1)], byte_tokenizer)) == [chatml(1).encode()]
    assert not (tmp_path / "a.unfinished").exists()


def assert_a_full_disk_harms_nothing(
    cache: Path, tokenizer: Tokenizer, limit: AbstractContextManager[None]
) -> None:
    """`cache` has room for the first store and not for the second."""
    older = rows(build(cache / "older", [conversation(1)], tokenizer))
    with limit, pytest.raises(InputError) as caught:
        build(cache / "newer", [conversation(400_000)], tokenizer)
    assert re.fullmatch(
        rf"the disk that holds {re.escape(str(cache))} is full \([\d,]+ MiB free\); "
        "free some space or choose another folder",
        str(caught.value),
    )
    assert {path.name for path in cache.iterdir()} <= {"older", "older.lock", "newer.lock"}
    assert rows(open_or_build(cache / "older", unread, tokenizer, "every")) == older
    assert rows(build(cache / "newer", [conversation(2)], tokenizer)) == [chatml(2).encode()]


def test_full_disk(small_disk: Path, byte_tokenizer: Tokenizer) -> None:
    assert_a_full_disk_harms_nothing(small_disk / "chats", byte_tokenizer, nullcontext())


def test_quota(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    limit_file_size: Callable[[int], AbstractContextManager[None]],
) -> None:
    assert_a_full_disk_harms_nothing(tmp_path / "chats", byte_tokenizer, limit_file_size(1 << 20))

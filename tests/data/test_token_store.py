"""Token stores: the tokenizer's ids to the last one, made once, whole or not at all."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_gpt_kit.data import token_store
from lit_gpt_kit.data.documents import Piece
from lit_gpt_kit.data.token_store import TokenStore, open_or_build
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.data.processes import kill_half_way, race

PREAMBLE = """
import hashlib, sys, time
from pathlib import Path
from lit_gpt_kit.data import token_store
from lit_gpt_kit.data.documents import Piece
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer

token_store.BATCH_CHARACTERS = 1000
tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
folder, log = Path(sys.argv[1]), Path(sys.argv[2])
documents = [Piece(f"document {i}\\n" * 100, True) for i in range(200)]
"""
RACE = """
def pieces():
    with log.open("a") as file:
        file.write("built\\n")
    for document in documents:
        time.sleep(0.002)
        yield document

print("ready", flush=True)
sys.stdin.readline()
store = token_store.open_or_build(folder, pieces, tokenizer)
print(hashlib.sha256(store.tokens.tobytes()).hexdigest(), flush=True)
"""
STOP_HALF_WAY = """
def pieces():
    yield from documents[:100]
    print("half-way", flush=True)
    time.sleep(600)

token_store.open_or_build(folder, pieces, tokenizer)
"""
# The spelling of the end token is the end token.
TEXTS = st.text().filter(lambda text: "<|endoftext|>" not in text)
DOCUMENTS = [Piece(f"document {i}\n" * 100, True) for i in range(200)]


class NumberTokenizer:
    """Text is numbers; each is its own id."""

    end_id = None

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]


def pieces_of(documents: list[list[str]]) -> list[Piece]:
    return [
        Piece(text, ends_document=number == len(document))
        for document in documents
        for number, text in enumerate(document, start=1)
    ]


def build(
    folder: Path, documents: list[list[str]], tokenizer: Tokenizer | NumberTokenizer
) -> TokenStore:
    return open_or_build(folder, lambda: pieces_of(documents), tokenizer)  # type: ignore[arg-type]


def unread() -> Iterator[Piece]:
    raise AssertionError("the sources were read")
    yield


def byte_ids(documents: list[Piece]) -> list[int]:
    return [i for piece in documents for i in [*piece.text.encode(), 256]]


@settings(deadline=None, max_examples=50)
@given(
    documents=st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1),
    batch_characters=st.integers(1, 30),
)
def test_contents_are_the_ids_and_an_end_token(
    tmp_path_factory: pytest.TempPathFactory,
    byte_tokenizer: Tokenizer,
    documents: list[list[str]],
    batch_characters: int,
) -> None:
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, "BATCH_CHARACTERS", batch_characters)
        store = open_or_build(
            tmp_path_factory.mktemp("cache") / "a",
            lambda: pieces_of(documents),
            byte_tokenizer,
            done.append,
        )
    texts = ["".join(document).encode() for document in documents]
    assert store.tokens.tolist() == [i for text in texts for i in [*text, 256]]
    assert store.document_ends.tolist() == np.cumsum([len(text) + 1 for text in texts]).tolist()
    assert store.info.num_tokens == len(store.tokens)
    assert store.info.num_documents == len(documents)
    assert store.info.num_bytes == sum(done) == sum(map(len, texts))


def test_pieces_are_encoded_by_the_tokenizer(tmp_path: Path) -> None:
    texts = ["low lower lowest\n", "new newer\n", "slow"]
    tokenizer = train_tokenizer(TokenizerConfig("bpe", 280), texts)
    store = build(tmp_path / "a", [texts[:2], texts[2:]], tokenizer)
    first, second, third = tokenizer.encode_batch(texts)
    assert store.tokens.tolist() == [*first, *second, 0, *third, 0]
    assert tokenizer.decode(store.tokens) == "".join(
        [*texts[:2], "<|endoftext|>", texts[2], "<|endoftext|>"]
    )


def test_without_an_end_token_nothing_is_added(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TokenizerConfig("char"), ["abc"])
    store = build(tmp_path / "a", [["ab", "c"], ["b"]], tokenizer)
    assert store.tokens.tolist() == [0, 1, 2, 1]
    assert store.document_ends.tolist() == [3, 4]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_ids_take_no_more_room_than_they_need(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    largest = vocab_size - 1
    store = build(tmp_path / "a", [[f"0 7 {largest}"]], NumberTokenizer(vocab_size))
    assert store.info.token_dtype == store.tokens.dtype == dtype
    assert store.tokens.tolist() == [0, 7, largest]
    assert (tmp_path / "a" / "tokens.bin").stat().st_size == 3 * np.dtype(dtype).itemsize


def test_a_store_is_made_once(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    first = build(tmp_path / "a", [["text"]], byte_tokenizer)
    again = open_or_build(tmp_path / "a", unread, byte_tokenizer)
    assert again.tokens.tolist() == first.tokens.tolist()
    assert isinstance(again.tokens, np.memmap)
    assert not again.tokens.flags.writeable


def test_without_text_there_is_no_store(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="the sources hold no text"):
        build(tmp_path / "a", [], byte_tokenizer)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["a.lock"])


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    def broken() -> Iterator[Piece]:
        yield from DOCUMENTS
        raise InputError("a.jsonl, line 3: not valid JSON")

    with pytest.raises(InputError, match=r"a\.jsonl, line 3"):
        open_or_build(tmp_path / "a", broken, byte_tokenizer)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["a.lock"])
    assert build(tmp_path / "a", [["b"]], byte_tokenizer).tokens.tolist() == [98, 256]


def cut_tokens(folder: Path) -> None:
    path = folder / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-2])


def lengthen_tokens(folder: Path) -> None:
    with (folder / "tokens.bin").open("ab") as file:
        file.write(b"\x00\x00")


def empty_tokens(folder: Path) -> None:
    (folder / "tokens.bin").write_bytes(b"")


def cut_document_ends(folder: Path) -> None:
    path = folder / "documents.bin"
    path.write_bytes(path.read_bytes()[:-1])


def remove_info(folder: Path) -> None:
    (folder / "info.json").unlink()


def cut_info(folder: Path) -> None:
    (folder / "info.json").write_text('{"num_tokens": 3')


def change_fields(folder: Path) -> None:
    (folder / "info.json").write_text(json.dumps({"tokens": 3}))


def change_dtype(folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps(info | {"token_dtype": "letters"}))


@pytest.mark.parametrize(
    "damage",
    [
        cut_tokens,
        lengthen_tokens,
        empty_tokens,
        cut_document_ends,
        remove_info,
        cut_info,
        change_fields,
        change_dtype,
    ],
)
def test_damage_is_noticed_and_mended(
    tmp_path: Path, byte_tokenizer: Tokenizer, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "a"
    build(folder, [["one"], ["two"]], byte_tokenizer)
    damage(folder)
    with pytest.raises((OSError, ValueError, TypeError)):
        TokenStore(folder)
    store = build(folder, [["one"], ["two"]], byte_tokenizer)
    assert store.tokens.tolist() == [*b"one", 256, *b"two", 256]
    assert store.document_ends.tolist() == [4, 8]


def test_two_processes_make_one_store(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache" / "a", tmp_path / "log"
    digests = race(PREAMBLE + RACE, folder, log)
    expected = np.array(byte_ids(DOCUMENTS), dtype=np.uint16).tobytes()
    assert digests == [hashlib.sha256(expected).hexdigest()] * 2
    assert log.read_text() == "built\n"
    assert sorted(path.name for path in folder.iterdir()) == [
        "documents.bin",
        "info.json",
        "tokens.bin",
    ]


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_store(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    folder = tmp_path / "a"
    kill_half_way(PREAMBLE + STOP_HALF_WAY, folder, tmp_path / "log")
    assert not folder.exists()
    assert (tmp_path / "a.unfinished" / "tokens.bin").stat().st_size > 0

    store = open_or_build(folder, lambda: DOCUMENTS, byte_tokenizer)
    assert store.tokens.tolist() == byte_ids(DOCUMENTS)
    assert not (tmp_path / "a.unfinished").exists()


def assert_a_full_disk_harms_nothing(
    cache: Path, tokenizer: Tokenizer, limit: AbstractContextManager[None]
) -> None:
    """`cache` has room for the first store and not for the second."""
    older = build(cache / "older", [["kept"]], tokenizer).tokens.tolist()
    with limit, pytest.raises(InputError) as caught:
        build(cache / "newer", [["x" * 999_999]], tokenizer)
    assert re.fullmatch(
        rf"the disk that holds {re.escape(str(cache))} is full \([\d,]+ MiB free\); "
        "free some space or choose another folder",
        str(caught.value),
    )
    assert {path.name for path in cache.iterdir()} <= {"older", "older.lock", "newer.lock"}
    assert open_or_build(cache / "older", unread, tokenizer).tokens.tolist() == older
    assert build(cache / "newer", [["fits"]], tokenizer).info.num_tokens == 5


def test_full_disk(small_disk: Path, byte_tokenizer: Tokenizer) -> None:
    assert_a_full_disk_harms_nothing(small_disk / "tokens", byte_tokenizer, nullcontext())


def test_full_disk_says_what_was_free(small_disk: Path, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"is full \(0 MiB free\)"):
        build(small_disk / "tokens" / "a", [["x" * 999_999]], byte_tokenizer)


def test_disk_that_was_full_before(small_disk: Path, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "rest").write_bytes(bytes(2 << 20))
    with pytest.raises(InputError, match=r"the disk that holds .* is full"):
        build(small_disk / "tokens" / "a", [["text"]], byte_tokenizer)


def test_disk_without_room_for_a_folder(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"the disk that holds .* is full"):
        build(tmp_path / "tokens" / "a", [["text"]], byte_tokenizer)


def test_quota(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    limit_file_size: Callable[[int], AbstractContextManager[None]],
) -> None:
    assert_a_full_disk_harms_nothing(tmp_path / "tokens", byte_tokenizer, limit_file_size(1 << 20))


def test_a_reader_keeps_its_store_while_another_mends_it(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    store = build(tmp_path / "a", [["text"]], byte_tokenizer)
    shutil.rmtree(tmp_path / "a")
    build(tmp_path / "a", [["other"]], byte_tokenizer)
    assert store.tokens.tolist() == [*b"text", 256]

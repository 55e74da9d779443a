"""New tokenizers: what is learnt, what is refused."""

import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer

CORPUS = ["low lower lowest\n", "new newer newest\n"] * 10


def test_bpe_has_the_size_asked_for(tiny_shakespeare: Path) -> None:
    text = tiny_shakespeare.read_text()
    tok = train_tokenizer(TokenizerConfig("bpe", vocab_size=600), [text])
    assert tok.vocab_size == 600
    assert tok.end_id == 0
    # A merge saves tokens: the vocabulary is learnt, not filled up.
    assert len(tok.encode(text[:10_000])) < 0.6 * 10_000


def test_bpe_learns_the_most_frequent_pair_first() -> None:
    tok = train_tokenizer(TokenizerConfig("bpe", vocab_size=257, special_tokens=()), CORPUS)
    assert tok.token(256) == "we"  # in four of the six words, every other pair in three
    assert tok.encode("towel") == [tok.encode(c)[0] for c in "to"] + [256, tok.encode("l")[0]]


def test_bpe_stops_where_nothing_is_left_to_merge() -> None:
    tok = train_tokenizer(TokenizerConfig("bpe", 1000), ["ab ab"])
    assert [tok.token(i) for i in range(257, tok.vocab_size)] == ["ab", " ab"]


def test_bpe_is_the_same_each_time() -> None:
    config = TokenizerConfig("bpe", 300)
    first, second = (train_tokenizer(config, CORPUS).fingerprint for _ in range(2))
    assert first == second


def test_bpe_knows_every_byte_from_the_start() -> None:
    tok = train_tokenizer(TokenizerConfig("bpe", 257), ["a"])
    assert tok.decode(tok.encode("狐 🦊\x00")) == "狐 🦊\x00"
    assert len(tok.encode("狐")) == 3


def test_bpe_special_tokens_come_first() -> None:
    tok = train_tokenizer(TokenizerConfig("bpe", 300, ("<end>", "<pad>", "<sep>")), CORPUS)
    assert [tok.token(i) for i in range(3)] == ["<end>", "<pad>", "<sep>"]
    assert tok.end_token == "<end>"


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_without_special_tokens_there_is_no_end_token(kind: Any) -> None:
    tok = train_tokenizer(TokenizerConfig(kind, special_tokens=()), CORPUS)
    assert tok.end_token is None
    assert tok.backend.get_added_tokens_decoder() == {}


@given(corpus=st.lists(st.text(min_size=1), min_size=1))
def test_char_ids_are_ranks_in_the_alphabet(corpus: list[str]) -> None:
    tok = train_tokenizer(TokenizerConfig("char"), corpus)
    alphabet = sorted(set("".join(corpus)))
    assert tok.vocab_size == len(alphabet)
    assert [tok.token(i) for i in range(tok.vocab_size)] == alphabet
    assert tok.end_token is None


def test_char_of_a_real_corpus(tiny_shakespeare: Path) -> None:
    tok = train_tokenizer(TokenizerConfig("char"), [tiny_shakespeare.read_text()])
    assert tok.vocab_size == 65
    assert tok.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]


def test_char_without_text() -> None:
    with pytest.raises(InputError, match="there is no text to take characters from"):
        train_tokenizer(TokenizerConfig("char"), ["", ""])


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_texts_are_a_stream_read_once(kind: Any) -> None:
    read: list[str] = []

    def stream() -> Iterator[str]:
        for text in CORPUS:
            read.append(text)
            yield text

    train_tokenizer(TokenizerConfig(kind), stream())
    assert read == CORPUS


def test_bytes_need_no_text() -> None:
    def stream() -> Iterator[str]:
        raise AssertionError("the corpus was read")
        yield ""

    assert train_tokenizer(TokenizerConfig("byte"), stream()).vocab_size == 257


def test_defaults() -> None:
    config = TokenizerConfig()
    assert (config.kind, config.num_tokens, config.specials) == ("bpe", 4096, ["<|endoftext|>"])
    assert TokenizerConfig("byte").specials == ["<|endoftext|>"]
    assert TokenizerConfig("char").specials == []
    with pytest.raises(FrozenInstanceError):
        config.kind = "char"  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_size_of_a_kind_that_has_none_to_choose(kind: Any) -> None:
    expected = (
        f"vocab_size=300 means nothing for a {kind} tokenizer, whose size follows from its kind; "
        "leave it out"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        TokenizerConfig(kind, vocab_size=300)


@pytest.mark.parametrize(("specials", "smallest"), [(None, 257), ((), 256), (("<a>", "<b>"), 258)])
def test_too_few_tokens_for_the_bytes(specials: Any, smallest: int) -> None:
    assert TokenizerConfig("bpe", smallest, specials).num_tokens == smallest
    expected = (
        f"vocab_size={smallest - 1} is too small for a bpe tokenizer; "
        f"256 bytes and {smallest - 256} special tokens need {smallest}"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        TokenizerConfig("bpe", smallest - 1, specials)

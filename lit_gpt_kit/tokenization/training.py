"""New tokenizers: byte-level BPE, characters, raw bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

TokenizerKind = Literal["bpe", "char", "byte"]
NUM_BYTES = 256
DEFAULT_VOCAB_SIZE = 4096


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer to be trained on the corpus."""

    kind: TokenizerKind = "bpe"
    """bpe: byte-level byte-pair encoding, GPT-2's; char: one token a character of the corpus;
    byte: one token a byte, nothing to train."""
    vocab_size: int | None = None
    """Number of tokens of a bpe tokenizer, special tokens and the 256 bytes included; 4096 by
    default. The other kinds have as many as they have."""
    special_tokens: tuple[str, ...] | None = None
    """Tokens that stand for no text; the first one ends a document. By default <|endoftext|> for
    bpe and byte, none for char."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be.

        Raises:
            InputError: naming the value and the rule.
        """
        if self.kind != "bpe":
            if self.vocab_size is not None:
                raise InputError(
                    f"vocab_size={self.vocab_size} means nothing for a {self.kind} tokenizer, "
                    "whose size follows from its kind; leave it out"
                )
            return
        smallest = NUM_BYTES + len(self.specials)
        if self.num_tokens < smallest:
            raise InputError(
                f"vocab_size={self.num_tokens} is too small for a bpe tokenizer; "
                f"{NUM_BYTES} bytes and {len(self.specials)} special tokens need {smallest}"
            )

    @property
    def num_tokens(self) -> int:
        """Size of a bpe vocabulary, the default filled in."""
        return DEFAULT_VOCAB_SIZE if self.vocab_size is None else self.vocab_size

    @property
    def specials(self) -> list[str]:
        """The special tokens, the default filled in."""
        if self.special_tokens is not None:
            return list(self.special_tokens)
        return [] if self.kind == "char" else ["<|endoftext|>"]


def train_tokenizer(
    config: TokenizerConfig, texts: Iterable[str], show_progress: bool = False
) -> Tokenizer:
    """Train the tokenizer that `config` describes on `texts`, which is read once, as a stream.

    Args:
        config: kind and size.
        texts: the corpus, in pieces.
        show_progress: show the library's own progress bar, which needs a terminal.

    Raises:
        InputError: a character-level tokenizer finds no text to take characters from.
    """
    if config.kind == "bpe":
        backend = _train_bpe(config, texts, show_progress)
    elif config.kind == "char":
        backend = _train_char(texts)
    else:
        backend = _byte_level(models.BPE(_byte_vocabulary(), []), split_words=False)
    backend.add_special_tokens(config.specials)
    return Tokenizer(backend, end_token=config.specials[0] if config.specials else None)


def _train_bpe(config: TokenizerConfig, texts: Iterable[str], show_progress: bool) -> Backend:
    backend = _byte_level(models.BPE(), split_words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=config.num_tokens,
        special_tokens=config.specials,
        # All bytes from the start, so that no text is ever unknown.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_char(texts: Iterable[str]) -> Backend:
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(text)
    if not alphabet:
        raise InputError("there is no text to take characters from")
    vocab = {character: index for index, character in enumerate(sorted(alphabet))}
    backend = Backend(models.BPE(vocab, []))
    backend.decoder = decoders.Fuse()
    return backend


def _byte_level(model: models.Model, split_words: bool) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_words)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_vocabulary() -> dict[str, int]:
    """Byte b gets id b, under the character that GPT-2's byte-level alphabet gives it.

    Bytes that print are themselves; the others, in order, are the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {chr(b if b in printable else next(others)): b for b in range(NUM_BYTES)}

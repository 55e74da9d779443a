"""Tokenizer: a Hugging Face `tokenizers` pipeline that knows its end token and never loses text."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Encoding, decoders, processors
from tokenizers import Tokenizer as Backend

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.tokenization.formats import load_backend
from lit_gpt_kit.tokenization.settings import TokenizerSettings, read_settings, set_begin

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
"""What the end of a document is called in the tokenizers of the field, looked up in this order."""


class Tokenizer:
    """Text <-> token ids; `decode(encode(text)) == text` for every tokenizer trained here.

    Args:
        backend: the pipeline of the `tokenizers` library that does the work.
        end_token: the token that ends a document; None looks for one of `END_TOKENS`.
        chat_template: the Jinja template that lays out a conversation, where there is one.
        begin_token: the token that such a template calls `bos_token`. Whether a text begins with
            it when it is encoded, `backend` decides.

    Raises:
        InputError: `end_token` is not in the vocabulary.
    """

    def __init__(
        self,
        backend: Backend,
        end_token: str | None = None,
        chat_template: str | None = None,
        begin_token: str | None = None,
    ) -> None:
        self.backend = backend
        if end_token is None:
            end_token = next((t for t in END_TOKENS if backend.token_to_id(t) is not None), None)
        elif backend.token_to_id(end_token) is None:
            raise InputError(f"end_token={end_token!r} is not in the tokenizer's vocabulary")
        self.end_token = end_token
        self.chat_template = chat_template
        self.begin_token = begin_token

    @classmethod
    def from_file(cls, path: str | Path, end_token: str | None = None) -> "Tokenizer":
        """Read a tokenizer.json, or a folder with one or with GPT-2's pair of files.

        The pair is vocab.json and merges.txt, or under OpenAI's names encoder.json and vocab.bpe.
        Each file may be gzipped. A folder's tokenizer_config.json and chat_template.jinja say which
        tokens begin and end a text, and how a conversation is laid out.

        Raises:
            MissingFileError: there is no such file or folder.
            InputError: the file is no tokenizer, or the folder holds none.
        """
        path = Path(path)
        backend = load_backend(path)
        said = read_settings(path) if path.is_dir() else TokenizerSettings()
        set_begin(backend, said.begin_token, said.adds_begin)
        return cls(backend, end_token or said.end_token, said.chat_template, said.begin_token)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Tokenizer":
        """The tokenizer that `state()` described."""
        return cls(
            Backend.from_str(state["json"]),
            state["end_token"],
            state["chat_template"],
            state.get("begin_token"),  # checkpoints of 0.1.0 have none
        )

    def state(self) -> dict[str, Any]:
        """All there is to know, as strings, to be kept in a checkpoint."""
        return {
            "json": self.backend.to_str(),
            "end_token": self.end_token,
            "chat_template": self.chat_template,
            "begin_token": self.begin_token,
        }

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json that every Hugging Face library reads."""
        write_atomically(Path(path), self.backend.to_str(pretty=True))

    @cached_property
    def ids(self) -> list[int]:
        """The ids that stand for something, in order; some in between may be nobody's."""
        return sorted(set(self.backend.get_vocab(with_added_tokens=True).values()))

    @property
    def vocab_size(self) -> int:
        """Number of ids a model needs: the largest id plus one."""
        return self.ids[-1] + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text becomes."""
        return hashlib.sha256(f"{self.end_token}\0{self.backend.to_str()}".encode()).hexdigest()

    @property
    def is_byte_level(self) -> bool:
        """Every token stands for the same bytes wherever it occurs (GPT-2's kind)."""
        return isinstance(self.backend.decoder, decoders.ByteLevel)

    @property
    def end_id(self) -> int | None:
        """The id of the end token, where there is one."""
        return None if self.end_token is None else self.backend.token_to_id(self.end_token)

    @cached_property
    def begin_ids(self) -> list[int]:
        """What a text begins with in this tokenizer: the begin token of Llama or Gemma, or nothing.

        Source: the post-processor of tokenizer.json. What it may add behind a text is not taken:
        a prompt is there to be continued.
        """
        encoding = self.backend.encode("a", add_special_tokens=True)
        text_starts = encoding.special_tokens_mask.index(0) if encoding.ids else 0
        return list(encoding.ids[:text_starts])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of one text, behind `begin_ids` unless `add_special_tokens` is False.

        Raises:
            InputError: a character-level tokenizer does not know a character.
        """
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """The ids of many texts, encoded in parallel by the library; see `encode`.

        Raises:
            InputError: a character-level tokenizer does not know a character.
        """
        encodings = self._encode(self.backend.encode_batch_fast, texts)
        if add_special_tokens and self.begin_ids:
            return [self.begin_ids + encoding.ids for encoding in encodings]
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        """The library's encodings of many texts, without `begin_ids`.

        Their `offsets` say for each of their `ids` where in the text it begins and ends, in
        characters; a token that holds a part of a character has the whole of it.

        Raises:
            InputError: a character-level tokenizer does not know a character.
        """
        return self._encode(self._exact_backend.encode_batch, texts)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of the ids, special tokens spelled out unless they are to be skipped."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def token(self, token_id: int) -> str:
        """The text of one id, for people to look at; bytes that are no text show as �."""
        return self.decode([token_id])

    def byte_lengths(self) -> list[int]:
        """How many bytes of UTF-8 text each id stands for, by id; special tokens stand for none.

        Summed over an encoded text they give its length in bytes, which makes bits per byte exact
        for any part of a text.
        """
        added = self.backend.get_added_tokens_decoder()
        lengths = [0] * self.vocab_size
        for token, token_id in self.backend.get_vocab(with_added_tokens=True).items():
            if token_id in added and added[token_id].special:
                continue
            if self.is_byte_level and token_id not in added:
                lengths[token_id] = len(token)  # each character of such a token is one byte
            elif _is_byte_token(token):
                lengths[token_id] = 1
            else:  # SentencePiece spells a space ▁; to a character-level tokenizer it is a ▁
                spelled = token if self._alphabet is not None else token.replace("▁", " ")
                lengths[token_id] = len(spelled.encode())
        return lengths

    @cached_property
    def _exact_backend(self) -> Backend:
        """A copy of `backend` with exact offsets, where its own leave the space out of " word".

        Those of Llama 3 and RoBERTa do, after encoding; the ids are the same.
        """
        processor = self.backend.post_processor
        if processor is None or b'"trim_offsets":true' not in processor.__getstate__():
            return self.backend
        exact = Backend.from_str(self.backend.to_str())
        exact.post_processor = processors.Sequence([])
        return exact

    def _encode(
        self, encode_batch: Callable[..., list[Encoding]], texts: Sequence[str]
    ) -> list[Encoding]:
        if self._alphabet is not None:
            for text in texts:
                self._refuse_unknown_characters(text)
        try:
            return encode_batch(list(texts), add_special_tokens=False)
        except TypeError:  # what the library makes of a lone surrogate
            raise InputError("the text holds bytes that are not UTF-8; convert it") from None

    @cached_property
    def _alphabet(self) -> frozenset[str] | None:
        """The characters of a character-level tokenizer; None for every other kind.

        Such a tokenizer has neither merges nor a pre-tokenizer, and the library drops characters
        that it does not know without a word.
        """
        if self.backend.pre_tokenizer is not None or self.backend.normalizer is not None:
            return None
        tokens = self.backend.get_vocab(with_added_tokens=False)
        return frozenset(tokens) if all(len(token) == 1 for token in tokens) else None

    def _refuse_unknown_characters(self, text: str) -> None:
        assert self._alphabet is not None
        if not set(text) - self._alphabet:
            return
        for token in self.backend.get_added_tokens_decoder().values():
            text = text.replace(token.content, "")
        unknown = sorted(set(text) - self._alphabet)
        if unknown:
            raise InputError(
                f"character {unknown[0]!r} (U+{ord(unknown[0]):04X}) is not among the "
                f"{len(self._alphabet)} characters of this tokenizer; remove it, or train a "
                "tokenizer of kind bpe or byte, which know every character"
            )


def _is_byte_token(token: str) -> bool:
    """SentencePiece models spell a byte that no token holds as <0x0A>."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")

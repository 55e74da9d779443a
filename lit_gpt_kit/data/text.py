"""TextDataModule: plain text of any size to batches for next-token training."""

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

from lit_gpt_kit.data.base import DataModule, hash_parts
from lit_gpt_kit.data.batch_warmup import BatchWarmup
from lit_gpt_kit.data.global_batch import GlobalBatch
from lit_gpt_kit.data.loader import EvalLoader, TrainLoader
from lit_gpt_kit.data.packing import TokenStream, split_store
from lit_gpt_kit.data.progress import show_progress
from lit_gpt_kit.data.sources import Source, read_pieces, resolve_sources
from lit_gpt_kit.data.token_store import FORMAT_VERSION, TokenStore, open_or_build
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig


class TextDataModule(DataModule):
    """Text to batches of `input_ids` and `targets`, (batch_size, block_size) int64 each.

    The corpus is tokenised once, as a stream, into memory-mapped files under `cache_dir`; a run
    that finds them starts at once. Documents are laid end to end and cut into rows, so there is no
    padding. Which rows make the global batch of a step depends on the seed and the step alone: not
    on the number of devices, and not on where a run was stopped and continued.

    Works in a Trainer or alone: `prepare_data()`, `setup("fit")`, `train_dataloader()`.

    Args:
        sources: files, folders, globs, URLs with their sha256, or builtin:python-docs and
            builtin:python-code. Formats by suffix: .txt .md .py .jsonl .csv .tsv .parquet, each
            also .gz or .zst.
        val_sources: validation text; by default a part of `sources`.
        test_sources: text for `test`; by default the validation text.
        predict_sources: text for `predict`; by default the validation text.
        val_fraction: share of the documents of `sources` kept for validation where `val_sources`
            is not given. With fewer than 1 / val_fraction documents it is the end of the text.
        tokenizer: a tokenizer.json, a folder with one or with GPT-2's vocab.json and merges.txt;
            or what kind to train on `sources`, validation documents included. By default the
            pretrained model's, or where there is none a BPE that is trained.
        batch_size: rows per device.
        batch_warmup: early steps read fewer rows.
        block_size: tokens in a row; by default the model's.
        text_field: the field that holds the text, in formats that have fields.
        isolate_documents: no token attends to another document of its row. Slower, and cleaner
            when documents are short.
        seed: decides the order of training; by default that of seed_everything.
        cache_dir: where tokens, tokenizers and downloads are kept.
        global_batch_tokens: tokens of an optimiser step over all devices. As many micro-batches are
            accumulated as that takes, so that batch_size can be what fits the memory.
    """

    row_kind = "rows that begin at tokens"

    def __init__(
        self,
        sources: list[str],
        val_sources: list[str] | None = None,
        test_sources: list[str] | None = None,
        predict_sources: list[str] | None = None,
        val_fraction: float = 0.1,
        tokenizer: TokenizerConfig | str | None = None,
        batch_size: int = 8,
        block_size: int | None = None,
        text_field: str = "text",
        isolate_documents: bool = False,
        seed: int | None = None,
        cache_dir: str = "~/.cache/lit_gpt_kit",
        batch_warmup: BatchWarmup | None = None,
        global_batch_tokens: int | None = None,
    ) -> None:
        size = global_batch_tokens
        global_batch = None if size is None else GlobalBatch("global_batch_tokens", size, "tokens")
        super().__init__(sources, tokenizer, batch_size, block_size, seed, cache_dir, global_batch)
        if not 0.0 <= val_fraction < 1.0:
            raise InputError(f"val_fraction={val_fraction} must be at least 0 and below 1")
        self.val_sources = val_sources
        self.test_sources = test_sources
        self.predict_sources = predict_sources
        self.val_fraction = val_fraction
        self.text_field = text_field
        self.isolate_documents = isolate_documents
        self.batch_warmup = batch_warmup

    def prepare_data(self) -> None:
        """Train the tokenizer and tokenise every source, unless that was done before."""
        tokenizer = self.build_tokenizer()
        for sources in (self.sources, self.val_sources, self.test_sources, self.predict_sources):
            if sources is not None:
                self._open_store(sources, tokenizer)

    def setup(self, stage: str | None = None) -> None:
        """Open what `prepare_data` made.

        Raises:
            InputError: the corpus is too short for `block_size` or for a validation part, or a
                step's rows are not what `batch_warmup` comes out at.
        """
        self._keep_global_batch(stage)
        if self.batch_warmup is not None and stage in (None, "fit"):
            self.batch_warmup.check(self.batch_size, self.batches_per_step, self._rank()[1])
        self.tokenizer = self.build_tokenizer()
        store = self._open_store(self.sources, self.tokenizer)
        fraction = self.val_fraction if self.val_sources is None else 0.0
        self.train_stream, split_off = split_store(store, fraction)
        self.val_stream = self._whole(self.val_sources) or split_off
        self.test_stream = self._whole(self.test_sources) or self.val_stream
        self.predict_stream = self._whole(self.predict_sources) or self.val_stream
        self.seed = self._choose_seed()
        if stage in (None, "fit") and self.train_stream.num_tokens <= self.block_size:
            raise InputError(
                f"block_size={self.block_size} is longer than the corpus "
                f"({self.train_stream.num_tokens} tokens to train on in {', '.join(self.sources)});"
                " lower block_size or add text"
            )
        if fraction and self.val_stream.num_tokens < 2:
            raise InputError(
                f"val_fraction={fraction} leaves {self.val_stream.num_tokens} tokens for "
                "validation; raise it, add text, or set it to 0 to train without validation"
            )

    @property
    def _micro_batch(self) -> dict[str, int]:
        return {**super()._micro_batch, "block_size": self.block_size}

    def resolve(self, sources: Sequence[str]) -> list[Source]:
        """The files behind `sources`, and the field that holds their text."""
        return resolve_sources(sources, self.text_field, self.cache_dir / "downloads")

    def read_texts(self, sources: Sequence[Source]) -> Iterator[str]:
        """All text, in pieces."""
        return (piece.text for piece in read_pieces(sources))

    def rows_of_step(self, step: int) -> list[int]:
        """Where, in the tokens to train on, the rows of a step begin."""
        starts: list[int] = self.train_dataloader().rows_of_step(self._read_by(step)).tolist()
        return starts

    @property
    def identity(self) -> dict[str, Any]:
        """That of every data module, and how the rows of a step grow."""
        identity = super().identity
        order, warmup = identity["order"], self.batch_warmup
        order["rows_at_first"] = order["rows_per_step"] if warmup is None else warmup.start
        grows = warmup is not None and warmup.start < order["rows_per_step"]
        order["batch_warmup.steps"] = warmup.steps if warmup is not None and grows else 0
        return identity

    def training_content(self) -> tuple[str, list[Any]]:
        """The tokens of training."""
        stream = self.train_stream
        content = [stream.store.info.sha256, stream.spans, self.isolate_documents]
        return f"{stream.num_tokens:,} tokens", content

    def describe(self) -> str:
        """What there is to train on, for people."""
        return (
            f"{self.train_stream.num_tokens:,} tokens to train on, "
            f"{self.val_stream.num_tokens:,} to validate on, from {', '.join(self.sources)}"
        )

    def describe_steps(self, num_steps: float, num_ranks: int) -> str:
        """How much that many steps read, for people."""
        rows = self.batch_size * self.batches_per_step * num_ranks
        tokens = rows * self.block_size
        num_rows = num_steps * rows
        if self.batch_warmup is not None and num_steps < inf:
            num_rows = self.batch_warmup.rows_before(int(num_steps), rows)
        epochs = num_rows * self.block_size / self.train_stream.num_tokens
        grown = "" if self.batch_warmup is None else "up to "
        return f"of {grown}{tokens:,} tokens" + (f" ({epochs:.1f} epochs)" if epochs < inf else "")

    def train_dataloader(self) -> TrainLoader:
        """Endless training batches, from where training stands."""
        rank, num_ranks = self._rank()
        return TrainLoader(
            self.train_stream,
            self.block_size,
            self.batch_size,
            self.seed,
            self.isolate_documents,
            rank,
            num_ranks,
            self.batches_per_step,
            first_batch=self._next_batch,
            batch_warmup=self.batch_warmup,
        )

    def val_dataloader(self) -> EvalLoader | list[Any]:
        """Every token of the validation text once."""
        return self._eval_loader(self.val_stream)

    def test_dataloader(self) -> EvalLoader | list[Any]:
        """Every token of the test text once."""
        return self._eval_loader(self.test_stream)

    def predict_dataloader(self) -> EvalLoader | list[Any]:
        """Every token of the text to predict once."""
        return self._eval_loader(self.predict_stream)

    def _eval_loader(self, stream: TokenStream) -> EvalLoader | list[Any]:
        if not stream.num_tokens:
            return []
        rank, num_ranks = self._rank()
        return EvalLoader(
            stream, self.block_size, self.batch_size, self.isolate_documents, rank, num_ranks
        )

    def _whole(self, sources: list[str] | None) -> TokenStream | None:
        if sources is None:
            return None
        return split_store(self._open_store(sources, self.tokenizer), val_fraction=0.0)[0]

    def _open_store(self, sources: Sequence[str], tokenizer: Tokenizer) -> TokenStore:
        resolved = self.resolve(sources)
        fingerprints = [source.fingerprint for source in resolved]
        key = hash_parts([FORMAT_VERSION, tokenizer.fingerprint, fingerprints])
        folder = self.cache_dir / "tokens" / key
        if folder.exists():
            return open_or_build(folder, lambda: read_pieces(resolved), tokenizer)
        sizes = [source.num_bytes for source in resolved]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        with show_progress(f"tokenising {', '.join(sources)}", total) as advance:
            return open_or_build(folder, lambda: read_pieces(resolved), tokenizer, advance)

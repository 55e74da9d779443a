"""InstructionDataModule: conversations to batches in which the assistant's words are learned."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from lit_gpt_kit.data.base import DataModule, hash_parts
from lit_gpt_kit.data.chat_batches import ChatRows, PackedRows
from lit_gpt_kit.data.chat_split import Split, TooLong
from lit_gpt_kit.data.chat_store import FORMAT_VERSION, ChatStore, Placed, open_or_build
from lit_gpt_kit.data.conversations import Conversation, read_conversation
from lit_gpt_kit.data.examples import GenerationExample
from lit_gpt_kit.data.global_batch import GlobalBatch
from lit_gpt_kit.data.order import stratified_choice
from lit_gpt_kit.data.progress import show_progress
from lit_gpt_kit.data.row_loader import RowEvalLoader, RowTrainLoader
from lit_gpt_kit.data.row_template import RowTemplate
from lit_gpt_kit.data.rows import read_rows
from lit_gpt_kit.data.sources import FileSource, Source
from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.tokenization.answer_spans import LossOn
from lit_gpt_kit.tokenization.chat_template import encode_chat
from lit_gpt_kit.tokenization.template_files import find_template
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig
from lit_gpt_kit.tokenization.turns import EmptyTextError


class InstructionDataModule(DataModule):
    """Conversations to batches for `LanguageModeling`, loss on the assistant's words alone.

    A row of a file is a conversation of one of these shapes, found by its keys or named by `shape`:
    `messages` (role, content), `conversations` (ShareGPT's from, value), instruction with input and
    output (Alpaca's), prompt and completion, question and answer (SQuAD's files as they are); or
    `template` makes question and answer from any columns. The chat template lays a conversation
    out, in a sandbox; what the model is to learn is an answer and the token that ends its turn.

    A batch is a dict of `input_ids` and `targets`, (rows, longest), already shifted, with -100
    where no loss falls; `target_positions`, where in the flattened batch it does; and where rows
    are packed `document_ids`: no conversation sees another.
    Tokens and masks are kept on disk, so a second run starts at once. Which rows make the global
    batch of a step depends on the seed and the step alone.

    Args:
        sources: files, folders, globs or URLs of .jsonl .json .csv .tsv .parquet, each also .gz or
            .zst.
        val_sources: rows for validation; by default a part of `sources`.
        test_sources: rows for `test`; by default those for validation.
        predict_sources: rows for `predict`; by default those for `test`.
        val_fraction: share of the rows kept for validation where `val_sources` is not given.
        shape: the shape of the rows, where their keys do not tell.
        template: how the columns of a row make question and answer.
        column_names: the columns of a CSV or TSV file without a header.
        chat_template: chatml, alpaca, plain or a .jinja file; by default the model's own, or ChatML
            where it has none.
        loss_on: every answer of a conversation is learned, or the last one.
        too_long: conversations longer than a block are cut at their end, or dropped.
        skip_empty: leave out rows in which a text is empty, instead of refusing them.
        pack: put several conversations into a row, instead of padding each.
        tokenizer: a tokenizer.json, a folder with one, or what to train on `sources`; by default
            the pretrained model's, or where there is none a BPE that is trained.
        batch_size: rows per device.
        block_size: longest row in tokens; by default the model's.
        seed: decides the order of training; by default that of seed_everything.
        cache_dir: where tokens, tokenizers and downloads are kept.
        global_batch_size: rows of an optimiser step over all devices. As many micro-batches are
            accumulated as that takes, so that batch_size can be what fits the memory.
    """

    def __init__(
        self,
        sources: list[str],
        val_sources: list[str] | None = None,
        test_sources: list[str] | None = None,
        predict_sources: list[str] | None = None,
        val_fraction: float = 0.05,
        shape: str | None = None,
        template: RowTemplate | None = None,
        column_names: list[str] | None = None,
        chat_template: str | None = None,
        loss_on: LossOn = "every",
        too_long: TooLong = "cut",
        skip_empty: bool = False,
        pack: bool = False,
        tokenizer: TokenizerConfig | str | None = None,
        batch_size: int = 8,
        block_size: int | None = None,
        seed: int | None = None,
        cache_dir: str = "~/.cache/lit_gpt_kit",
        global_batch_size: int | None = None,
    ) -> None:
        size = global_batch_size
        global_batch = None if size is None else GlobalBatch("global_batch_size", size, "rows")
        super().__init__(sources, tokenizer, batch_size, block_size, seed, cache_dir, global_batch)
        if not 0.0 <= val_fraction < 1.0:
            raise InputError(f"val_fraction={val_fraction} must be at least 0 and below 1")
        if shape is not None and template is not None:
            raise InputError(f"shape={shape} and template are both given; give one")
        if too_long not in (known := get_args(TooLong)):
            raise InputError(f"too_long={too_long!r} is unknown{did_you_mean(too_long, known)}")
        self.val_sources = val_sources
        self.test_sources = test_sources
        self.predict_sources = predict_sources
        self.val_fraction = val_fraction
        self.shape = shape if template is None else template
        self.column_names = column_names
        self.chat_template = chat_template
        self.loss_on = loss_on
        self.too_long = too_long
        self.skip_empty = skip_empty
        self.pack = pack
        self.splits: dict[str, Split] = {}

    # ---- reading ----

    def prepare_data(self) -> None:
        """Tokenise every source, unless that was done before."""
        self.tokenizer = self.build_tokenizer()
        for sources in (self.sources, self.val_sources, self.test_sources, self.predict_sources):
            if sources is not None:
                self._open_store(sources)

    def setup(self, stage: str | None = None) -> None:
        """Open what `prepare_data` made.

        Raises:
            InputError: no row is left to train on.
        """
        self._keep_global_batch(stage)
        self.tokenizer = self.build_tokenizer()
        self.seed = self._choose_seed()
        store = self._open_store(self.sources)
        everything = np.arange(len(store.tokens))
        fraction = self.val_fraction if self.val_sources is None else 0.0
        held_out = stratified_choice(len(everything), fraction)
        self.splits = {
            "train": self._split(self.sources, store, np.setdiff1d(everything, held_out))
        }
        if self.val_sources is None:
            self.splits["val"] = self._split(self.sources, store, held_out)
        for name in ("val", "test", "predict"):
            sources = getattr(self, f"{name}_sources")
            if sources is not None:
                store = self._open_store(sources)
                self.splits[name] = self._split(sources, store, np.arange(len(store.tokens)))
        if stage in (None, "fit") and not len(self.splits["train"].rows.numbers):
            cut = ", or cut what is too long (too_long: cut)" if self.too_long == "drop" else ""
            raise InputError(
                f"no row of {', '.join(self.sources)} is left to train on: "
                f"{self.splits['train'].describe_losses()}; raise block_size={self.block_size}{cut}"
            )
        for name, split in self.splits.items():
            # Those of training, `describe` tells.
            if name != "train" and (losses := split.describe_losses()):
                rank_zero_warn(f"{name} rows of {', '.join(split.sources)}: {losses}")

    def build_tokenizer(self) -> Tokenizer:
        """The tokenizer, with the chat template that was chosen."""
        tokenizer = super().build_tokenizer()
        if self.chat_template is None:
            return tokenizer
        template = find_template(self.chat_template)
        return Tokenizer(tokenizer.backend, tokenizer.end_token, template, tokenizer.begin_token)

    @property
    def reading(self) -> list[Any]:
        """How rows become conversations."""
        shape = asdict(self.shape) if isinstance(self.shape, RowTemplate) else self.shape
        return [shape, self.skip_empty, self.column_names]

    def read_texts(self, sources: Sequence[Source]) -> Iterator[str]:
        """All that is said in all conversations."""
        for conversation, _ in self._read(sources):
            if conversation is not None:
                yield from (message["content"] for message in conversation.messages)

    def _read(self, sources: Sequence[Source]) -> Iterator[Placed]:
        for source in sources:
            if not isinstance(source, FileSource):
                raise InputError(f"{source.name} holds no conversations; name a file with rows")
            for row in read_rows(source.path, column_names=self.column_names):
                conversation: Conversation | None
                try:
                    conversation = read_conversation(row, self.shape)
                except EmptyTextError as error:
                    if not self.skip_empty:
                        remedy = "mend the row, or leave such rows out with skip_empty: true"
                        raise InputError(f"{error}; {remedy}") from None
                    conversation = None
                yield conversation, row.place

    def _open_store(self, sources: list[str]) -> ChatStore:
        resolved = self.resolve(sources)
        layout = [self.tokenizer.chat_template, self.tokenizer.begin_token]
        files = [source.fingerprint for source in resolved]
        parts = [FORMAT_VERSION, self.tokenizer.fingerprint, layout, self.loss_on, files]
        folder = self.cache_dir / "chats" / hash_parts([*parts, *self.reading])

        def read() -> Iterator[Placed]:
            return self._read(resolved)

        if folder.exists():
            return open_or_build(folder, read, self.tokenizer, self.loss_on)
        with show_progress(f"tokenising {', '.join(sources)}", None) as advance:
            return open_or_build(folder, read, self.tokenizer, self.loss_on, advance)

    def _split(self, sources: list[str], store: ChatStore, numbers: NDArray[np.int64]) -> Split:
        return Split.of(sources, store, numbers, self.block_size, self.too_long)

    # ---- batches ----

    def train_rows(self) -> ChatRows | PackedRows:
        """What makes the batches of training."""
        rows = self.splits["train"].rows
        return PackedRows.of(rows, self.block_size) if self.pack else rows

    def train_dataloader(self) -> RowTrainLoader:
        """Endless training batches, from where training stands."""
        rows = self.train_rows()
        return self._train_rows(rows.lengths, rows.collate)

    def val_dataloader(self) -> RowEvalLoader | list[Any]:
        """Every validation conversation once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> RowEvalLoader | list[Any]:
        """Every test conversation once."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> RowEvalLoader | list[Any]:
        """Every conversation to predict once."""
        return self._eval_loader("predict")

    def _eval_loader(self, name: str) -> RowEvalLoader | list[Any]:
        split = self._named_split(name)
        if split is None or not len(split.rows.numbers):
            return []
        rows = split.rows
        return RowEvalLoader(rows.lengths, rows.collate, self.batch_size, *self._rank())

    def _named_split(self, name: str) -> Split | None:
        order = {"predict": ("predict", "test", "val"), "test": ("test", "val")}.get(name, (name,))
        return next((self.splits[found] for found in order if found in self.splits), None)

    def training_content(self) -> tuple[str, list[Any]]:
        """The conversations of training, and what is learned of them."""
        rows = self.splits["train"].rows
        content = [rows.store.sha256, rows.numbers, rows.lengths, self.pack]
        return f"{len(rows.numbers):,} conversations", content

    # ---- for people and callbacks ----

    def generation_examples(self, split: str) -> list[GenerationExample]:
        """The conversations of a split, to be answered anew, and the answers that are right.

        Those that leave no room in the block for an answer are left out.
        """
        found = self._named_split(split)
        if found is None:
            return []
        wanted = set(found.rows.numbers.tolist())
        examples = []
        num_without_room = 0
        for number, (conversation, _) in enumerate(self._read(self.resolve(found.sources))):
            if conversation is None or number not in wanted:
                continue
            prompt = conversation.prompt
            if len(encode_chat(self.tokenizer, prompt)) < self.block_size:
                examples.append(GenerationExample(tuple(prompt), conversation.references))
            else:
                num_without_room += 1
        if num_without_room:
            rank_zero_warn(
                f"{num_without_room:,} of the {split} rows are not answered: their prompts leave "
                f"no room for an answer in block_size={self.block_size}"
            )
        return examples

    def describe(self) -> str:
        """What there is to train on, for people."""
        train, val = self.splits["train"], self.splits.get("val")
        num_val = 0 if val is None else len(val.rows.numbers)
        losses = train.describe_losses()
        return (
            f"{len(train.rows.numbers):,} conversations to train on, {num_val:,} to validate on, "
            f"from {', '.join(self.sources)}{f' ({losses})' if losses else ''}"
        )

    def rows_of_step(self, step: int) -> list[int]:
        """The numbers of the rows that training reads in a step, counted over all files."""
        return self.train_rows().file_rows(
            self.train_dataloader().rows_of_step(self._read_by(step))
        )

    def describe_steps(self, num_steps: float, num_ranks: int) -> str:
        """How much that many steps read, for people."""
        num_rows = len(self.train_rows().lengths)
        kind = "packed rows" if self.pack else "rows"
        return self._describe_rows(num_rows, num_steps, num_ranks, kind)

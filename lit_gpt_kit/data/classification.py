"""ClassificationDataModule: rows with a text and a label to padded batches."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lit_gpt_kit.data.base import DataModule
from lit_gpt_kit.data.global_batch import GlobalBatch
from lit_gpt_kit.data.labelled_texts import Examples, LabelledText
from lit_gpt_kit.data.labels import LabelMap, read_labels, sort_names, split_by_label
from lit_gpt_kit.data.row_loader import RowEvalLoader, RowTrainLoader
from lit_gpt_kit.data.rows import Row, read_rows
from lit_gpt_kit.data.sources import FileSource, Source
from lit_gpt_kit.data.token_rows import TokenRows
from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.tokenization.training import TokenizerConfig


class ClassificationDataModule(DataModule):
    """Labelled texts to batches for `SequenceClassification`, rows of like length together.

    A batch is a dict: `input_ids` (rows, longest), padded at the end; `last_token` (rows,), where
    each row's last token stands; `labels`, (rows,) numbers, or (rows, labels) of 0 and 1 where a
    row may have several; `row` (rows,), the row's number among those that were read. The label -100
    and the number -1 are those of a row that only fills up a rank's last batch. Batches to predict
    have no labels, but `texts`.

    Labels are sorted and numbered once, from the training rows; the checkpoint keeps their names.
    Which rows make the global batch of a step depends on the seed and the step alone.

    Args:
        sources: files, folders, globs or URLs of .jsonl .json .csv .tsv .parquet, each also .gz or
            .zst.
        val_sources: rows for validation; by default a part of `sources`.
        test_sources: rows for `test`; by default those for validation.
        predict_sources: rows for `predict`, which need no labels; by default those for `test`.
        val_fraction: share of each label's rows kept for validation where `val_sources` is not
            given.
        text_columns: the column of the text, or the columns of a pair.
        label_column: the column of the label: a name, a number, or a list where a row may have any
            number of labels.
        label_separator: parts several labels in a text, as in "sport;news".
        label_names: the labels in the order of their numbers; by default those of the training
            rows, sorted.
        column_names: the columns of a CSV or TSV file without a header.
        pair_separator: stands between the texts of a pair.
        tokenizer: a tokenizer.json, a folder with one, or what to train on `sources`; by default
            the pretrained model's, or where there is none a BPE that is trained.
        batch_size: rows per device.
        block_size: longest row in tokens, longer ones are cut at their end; by default the model's.
        seed: decides the order of training; by default that of seed_everything.
        cache_dir: where tokenizers and downloads are kept.
        global_batch_size: rows of an optimiser step over all devices. As many micro-batches are
            accumulated as that takes, so that batch_size can be what fits the memory.
    """

    def __init__(
        self,
        sources: list[str],
        val_sources: list[str] | None = None,
        test_sources: list[str] | None = None,
        predict_sources: list[str] | None = None,
        val_fraction: float = 0.1,
        text_columns: str | list[str] = "text",
        label_column: str = "label",
        label_separator: str | None = None,
        label_names: list[str] | None = None,
        column_names: list[str] | None = None,
        pair_separator: str = "\n",
        tokenizer: TokenizerConfig | str | None = None,
        batch_size: int = 16,
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
        self.val_sources = val_sources
        self.test_sources = test_sources
        self.predict_sources = predict_sources
        self.val_fraction = val_fraction
        self.text_columns = [text_columns] if isinstance(text_columns, str) else list(text_columns)
        if not self.text_columns:
            raise InputError("text_columns is empty; name the column of the text")
        self.label_column = label_column
        self.label_separator = label_separator
        self.column_names = column_names
        self.pair_separator = pair_separator
        self.num_cut = 0
        self.labels: LabelMap | None = None
        self._given_names = None if label_names is None else tuple(label_names)
        if self._given_names and len(set(self._given_names)) < len(self._given_names):
            raise InputError(f"label_names={label_names} has a name twice; give each once")
        self._rows: dict[str, Examples] = {}

    # ---- reading ----

    def prepare_data(self) -> None:
        """Download what is on the web, and train the tokenizer where one is to be trained."""
        self.build_tokenizer()

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenise the rows that a stage needs.

        Raises:
            InputError: a column is missing, a text is empty, or there is one label only.
        """
        self._keep_global_batch(stage)
        self.tokenizer = self.build_tokenizer()
        self.seed = self._choose_seed()
        self.num_cut = 0
        if stage == "predict" and self.predict_sources is not None:
            self._rows = {"predict": self._read(self.predict_sources, has_labels=False)}
            return
        if stage in ("test", "predict") and self.test_sources is not None:
            self._rows = {"test": self._read(self.test_sources)}
            return
        if stage not in (None, "fit") and self.val_sources is not None:
            self._rows = {"val": self._read(self.val_sources)}
            return
        whole = self._read(self.sources)
        self.labels = self._number_labels(whole.texts)
        if self.val_sources is None:
            train, val = split_by_label([r.labels or () for r in whole.texts], self.val_fraction)
            self._rows = {"train": whole.select(train), "val": whole.select(val)}
        else:
            self._rows = {"train": whole, "val": self._read(self.val_sources)}
            self._rows["val"].collator(self._label_map())  # refuses a label that is not learned
        if stage is None and self.test_sources is not None:
            self._rows["test"] = self._read(self.test_sources)
        if stage is None and self.predict_sources is not None:
            self._rows["predict"] = self._read(self.predict_sources, has_labels=False)

    @property
    def reading(self) -> list[Any]:
        """The columns of the text, and what stands between them."""
        return [self.text_columns, self.pair_separator, self.column_names]

    def read_texts(self, sources: Sequence[Source]) -> Iterator[str]:
        """The texts of all rows."""
        return (text.text for text in self._read_rows(sources, has_labels=False))

    def _read(self, sources: list[str], has_labels: bool = True) -> Examples:
        texts = list(self._read_rows(self.resolve(sources), has_labels))
        if not texts:
            raise InputError(f"{', '.join(sources)} holds no row")
        limit = self.block_size
        tokens = self.tokenizer.encode_batch([row.text for row in texts])
        for row, ids in zip(texts, tokens, strict=True):
            if not ids:
                raise InputError(f"{row.place}: the tokenizer leaves nothing of the text")
        num_cut = sum(len(ids) > limit for ids in tokens)
        if num_cut and not self._is_fitting():  # of which `describe` tells
            rank_zero_warn(f"{num_cut:,} rows of {', '.join(sources)} are cut to {limit} tokens")
        self.num_cut += num_cut
        rows = TokenRows.of(ids[:limit] for ids in tokens)
        return Examples(texts, rows, np.arange(len(texts)))

    def _read_rows(self, sources: Sequence[Source], has_labels: bool) -> Iterator[LabelledText]:
        wanted = dict.fromkeys(self.text_columns, "text_columns")
        if has_labels:
            wanted[self.label_column] = "label_column"
        for source in sources:
            if not isinstance(source, FileSource):
                raise InputError(f"{source.name} has no labels; name a file with rows")
            for row in read_rows(source.path, wanted, self.column_names):
                labels = (
                    read_labels(row, self.label_column, self.label_separator)
                    if has_labels
                    else None
                )
                yield LabelledText(self._text_of(row), labels, row.place)

    def _text_of(self, row: Row) -> str:
        parts = [row.text(column) for column in self.text_columns]
        for column, part in zip(self.text_columns, parts, strict=True):
            if not part.strip():
                raise InputError(f"{row.place}: field '{column}' is empty; remove the row")
        return self.pair_separator.join(parts)

    # ---- labels ----

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The labels in the order of their numbers, where the training rows have been read."""
        return None if self.labels is None else self.labels.names

    @property
    def is_multi_label(self) -> bool:
        """A row may have any number of labels."""
        return self.labels is not None and self.labels.is_multi_label

    @property
    def label_counts(self) -> list[int]:
        """How many training rows have each label, in the order of the labels' numbers."""
        counts = Counter(name for row in self._rows["train"].texts for name in row.labels or ())
        return [counts[name] for name in self._label_map().names]

    def _number_labels(self, texts: Sequence[LabelledText]) -> LabelMap:
        is_multi_label = any(len(row.labels or ()) != 1 for row in texts)
        found = sort_names(name for row in texts for name in row.labels or ())
        if self._given_names is not None:
            names = self._given_names
            for row in texts:
                for label in row.labels or ():
                    if label not in names:
                        hint = did_you_mean(label, names)
                        raise InputError(
                            f"{row.place}: label '{label}' is not among label_names{hint}"
                        )
        else:
            names = found
        if len(found) < 2 and not (is_multi_label and found):
            raise InputError(
                f"every row of {', '.join(self.sources)} has the label "
                f"{', '.join(repr(name) for name in found) or 'nothing'} in '{self.label_column}'; "
                "there is nothing to tell apart"
            )
        return LabelMap(names, is_multi_label)

    def _label_map(self) -> LabelMap:
        """The training's labels: the model knows those of its checkpoint."""
        names = getattr(self._module, "label_names", None)
        if names is not None:
            return LabelMap(tuple(names), bool(getattr(self._module, "is_multi_label", False)))
        if self.labels is None:
            raise InputError(
                "the labels are not known; start from a checkpoint, or set up for fit first"
            )
        return self.labels

    # ---- batches ----

    def train_dataloader(self) -> RowTrainLoader:
        """Endless training batches, from where training stands."""
        rows = self._rows["train"]
        return self._train_rows(rows.tokens.lengths, rows.collator(self._label_map()))

    def val_dataloader(self) -> RowEvalLoader | list[Any]:
        """Every validation row once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> RowEvalLoader | list[Any]:
        """Every test row once."""
        return self._eval_loader("test" if "test" in self._rows else "val")

    def predict_dataloader(self) -> RowEvalLoader | list[Any]:
        """Every row to predict once."""
        found = (name for name in ("predict", "test", "val") if name in self._rows)
        return self._eval_loader(next(found), is_prediction=True)

    def _eval_loader(self, split: str, is_prediction: bool = False) -> RowEvalLoader | list[Any]:
        rows = self._rows[split]
        if not len(rows.tokens):
            return []
        collate = rows.collator(None if is_prediction else self._label_map())
        return RowEvalLoader(rows.tokens.lengths, collate, self.batch_size, *self._rank())

    def rows_of_step(self, step: int) -> list[int]:
        """The numbers of the rows that training reads in a step, counted over all files."""
        rows = self.train_dataloader().rows_of_step(self._read_by(step))
        numbers: list[int] = self._rows["train"].numbers[rows].tolist()
        return numbers

    def training_content(self) -> tuple[str, list[Any]]:
        """The rows of training and their labels."""
        rows = self._rows["train"]
        labels = [row.labels for row in rows.texts]
        content = [rows.tokens.values, rows.tokens.ends, labels, self._label_map().names]
        return f"{len(labels):,} rows", content

    def describe_steps(self, num_steps: float, num_ranks: int) -> str:
        """How much that many steps read, for people."""
        num_rows = len(self._rows["train"].texts)
        return self._describe_rows(num_rows, num_steps, num_ranks, "rows")

    def describe(self) -> str:
        """What there is to train on, for people."""
        train, val = self._rows["train"], self._rows["val"]
        kind = "any of" if self.is_multi_label else "one of"
        cut = f"; {self.num_cut:,} rows cut to {self.block_size} tokens" if self.num_cut else ""
        return (
            f"{len(train.texts):,} rows to train on, {len(val.texts):,} to validate on, "
            f"{kind} {len(self.label_names or ())} labels, from {', '.join(self.sources)}{cut}"
        )

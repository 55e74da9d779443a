"""DataModule: what every way of reading data has in common."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.data.cache import hash_content
from lit_gpt_kit.data.global_batch import GlobalBatch
from lit_gpt_kit.data.order import Numbers
from lit_gpt_kit.data.row_loader import Collate, RowTrainLoader
from lit_gpt_kit.data.sources import Source, resolve_sources
from lit_gpt_kit.data.token_store import FORMAT_VERSION
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.ranks import data_share
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer

MOST_ROWS_NAMED = 32
"""A message names so many rows of a step."""


class DataModule(LightningDataModule):
    """Sources, a tokenizer, and this rank's share of each batch; a subclass makes the batches.

    Works in a Trainer or alone: `prepare_data()`, `setup("fit")`, `train_dataloader()`.

    Args:
        sources: files, folders, globs, URLs with their sha256.
        tokenizer: a tokenizer.json or a folder with one; what to train on `sources`; by default the
            pretrained model's, or one that is trained where there is no such model.
        batch_size: rows per device.
        block_size: longest row in tokens; by default the model's.
        seed: decides the order of training; by default that of seed_everything.
        cache_dir: where tokens, tokenizers and downloads are kept.
        global_batch: what a step reads over all devices; the Trainer then accumulates as many
            micro-batches as that takes. By default what the Trainer accumulates.
    """

    tokenizer: Tokenizer
    seed: int
    row_kind = "rows"
    """What `rows_of_step` gives the numbers of."""

    def __init__(
        self,
        sources: list[str],
        tokenizer: TokenizerConfig | str | None,
        batch_size: int,
        block_size: int | None,
        seed: int | None,
        cache_dir: str,
        global_batch: GlobalBatch | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("block_size", block_size)):
            if value is not None and value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        self.sources = sources
        self.tokenizer_choice = tokenizer
        self.batch_size = batch_size
        self.cache_dir = Path(cache_dir).expanduser()
        self._block_size = block_size
        self._seed = seed
        self.global_batch = global_batch
        self._accumulated = 1

    # ---- what subclasses change ----

    def resolve(self, sources: Sequence[str]) -> list[Source]:
        """The files behind `sources`."""
        return resolve_sources(sources, "text", self.cache_dir / "downloads")

    def read_texts(self, sources: Sequence[Source]) -> Iterator[str]:
        """The texts that a tokenizer is trained on."""
        raise NotImplementedError(f"{type(self).__name__} does not define read_texts")

    def rows_of_step(self, step: int) -> list[int]:
        """The numbers of the rows that training reads in a step, on all ranks.

        Rows are counted over all files, from 0.

        Args:
            step: its number, counted from 0.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define rows_of_step")

    @property
    def reading(self) -> list[Any]:
        """What besides the files decides which texts are read, as JSON values."""
        return []

    def build_tokenizer(self) -> Tokenizer:
        """The tokenizer: the model's, loaded from a file, or trained on `sources` once and kept.

        A hook for subclasses that bring a tokenizer of their own.
        """
        choice = self.tokenizer_choice
        # After training, the texts that one was trained on need not be there any more.
        if choice is None or (isinstance(choice, TokenizerConfig) and not self._is_fitting()):
            load = getattr(self._module, "load_tokenizer", None)
            found: Tokenizer | None = None if load is None else load()
            if found is not None:
                return found
            choice = choice or TokenizerConfig()
        if isinstance(choice, str):
            return Tokenizer.from_file(Path(choice).expanduser())
        sources = self.resolve(self.sources)
        files = [source.fingerprint for source in sources]
        key = hash_parts([FORMAT_VERSION, asdict(choice), files, *self.reading])
        path = self.cache_dir / "tokenizers" / f"{key}.json"
        end_token = choice.specials[0] if choice.specials else None
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    train_tokenizer(choice, self.read_texts(sources)).save(path)
        return Tokenizer.from_file(path, end_token)

    def training_content(self) -> tuple[str, list[Any]]:
        """How much there is to train on, for people, and what it is: arrays, texts and numbers.

        A hook for subclasses. Where a data module does not say it, a run goes on with any data.
        """
        return "", []

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint remembers of its data, primitives all; see `check_data`."""
        size, content = self.training_content()
        return {
            "sources": list(self.sources),
            "size": size,
            "sha256": hash_content(content) if content else None,
            "order": {
                "seed": self.seed,
                "block_size": self.block_size,
                "rows_per_step": self.batch_size * self.batches_per_step * self._rank()[1],
            },
        }

    # ---- what the Trainer knows ----

    @property
    def block_size(self) -> int:
        """Longest row in tokens: as given, or the model's.

        Raises:
            InputError: it was not given and there is no model to ask, or the model's is shorter.
        """
        size = getattr(self._module, "block_size", None)
        if self._block_size is None and size is None:
            raise InputError("block_size is not given, and there is no model to take it from")
        if self._block_size is None or size is None:
            return int(size or self._block_size or 0)
        if self._block_size > size:
            raise InputError(
                f"data.block_size={self._block_size} is longer than the model's, {size}; lower it, "
                "or leave it out"
            )
        return self._block_size

    @property
    def batches_per_step(self) -> int:
        """Micro-batches of an optimiser step."""
        if self.trainer is not None:
            return self.trainer.accumulate_grad_batches
        return self._count_micro_batches() if self.global_batch is not None else 1

    @property
    def _micro_batch(self) -> dict[str, int]:
        """The factors of a micro-batch, in what the global batch is counted in."""
        return {"batch_size": self.batch_size}

    def _count_micro_batches(self) -> int:
        assert self.global_batch is not None
        return self.global_batch.num_micro_batches(self._micro_batch, self._rank()[1])

    def _keep_global_batch(self, stage: str | None) -> None:
        """Have the Trainer accumulate what the global batch takes; for the start of `setup`.

        Raises:
            InputError: that is no whole number, or the Trainer accumulates something else.
        """
        if self.trainer is None or stage != "fit":
            return
        given = self.trainer.accumulate_grad_batches
        if given < 1:
            raise InputError(f"trainer.accumulate_grad_batches={given} must be at least 1")
        if self.global_batch is None:
            return
        if given not in (1, self._accumulated):
            raise InputError(
                f"{self.global_batch.key}={self.global_batch.size} and "
                f"trainer.accumulate_grad_batches={given} are both given; leave the latter out, "
                "it follows from the former"
            )
        self._accumulated = self.trainer.accumulate_grad_batches = self._count_micro_batches()

    @property
    def _module(self) -> Any:
        return self.trainer.lightning_module if self.trainer is not None else None

    def _is_fitting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def _next_batch(self) -> int:
        """The number of the batch with which training goes on."""
        if self.trainer is None or not self._is_fitting():
            return 0
        return self._read_by(self.trainer.global_step) * self.batches_per_step

    def _read_by(self, step: int) -> int:
        """The step whose rows this one reads: itself, unless the Trainer overfits some batches."""
        trainer: Any = self.trainer
        repeats = bool(getattr(trainer, "overfit_batches", 0))
        if not repeats or trainer.num_training_batches == inf:
            return step
        return step % int(trainer.num_training_batches // self.batches_per_step)

    def _rank(self) -> tuple[int, int]:
        """The number of this rank among those that share the rows of a batch, and their number."""
        if self.trainer is None:
            return 0, 1
        return data_share(self.trainer)

    def _train_rows(self, lengths: Numbers, collate: Collate) -> RowTrainLoader:
        """Endless batches of whole rows, from where training stands."""
        rank, num_ranks = self._rank()
        return RowTrainLoader(
            lengths,
            collate,
            self.batch_size,
            self.seed,
            rank,
            num_ranks,
            self.batches_per_step,
            first_batch=self._next_batch,
        )

    def _describe_rows(self, num_rows: int, num_steps: float, num_ranks: int, kind: str) -> str:
        rows = self.batch_size * self.batches_per_step * num_ranks
        epochs = num_steps * rows / num_rows
        return f"of {rows:,} {kind}" + (f" ({epochs:.1f} epochs)" if epochs < inf else "")

    def describe_rows_of_step(self, step: int) -> str:
        """`rows_of_step` for people."""
        numbers = self.rows_of_step(step)
        shown = ", ".join(map(str, numbers[:MOST_ROWS_NAMED]))
        num_more = len(numbers) - MOST_ROWS_NAMED
        more = f" and {num_more:,} more" if num_more > 0 else ""
        return f"{self.row_kind} {shown}{more} of {', '.join(self.sources)}"

    def _choose_seed(self) -> int:
        # torch remembers what seed_everything gave it; ranks that were not seeded must agree.
        seed = torch.initial_seed() if self._seed is None else self._seed
        if self.trainer is not None:
            seed = self.trainer.strategy.broadcast(seed)
        return seed % 2**63


def hash_parts(parts: list[Any]) -> str:
    """A name for what `parts` describe, JSON values all; other parts, another name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

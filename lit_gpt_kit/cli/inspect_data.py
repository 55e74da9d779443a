"""`lit-gpt inspect-data`: rows as the model gets them, and what looks wrong with them."""

import shlex
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from lit_gpt_kit.cli.dry_run import DryCLI
from lit_gpt_kit.cli.main import DONE
from lit_gpt_kit.cli.parsing import without
from lit_gpt_kit.cli.quiet import quieten_libraries
from lit_gpt_kit.cli.shown_rows import show_findings, show_rows
from lit_gpt_kit.data.inspection import look_at
from lit_gpt_kit.data.read_back import InspectedRow, rows_of_an_epoch
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tasks.base import Task
from lit_gpt_kit.tokenization.chat_template import chat_end_ids
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

MOST_ROWS = 2000
"""Of a longer epoch so many rows are counted."""


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    quieten_libraries()
    InspectingCLI(arguments)
    return DONE


class InspectingCLI(DryCLI):
    """`fit` up to its first batches: nothing is built, trained or written.

    Args:
        arguments: those of `fit`, and `--rows`.
    """

    name = "inspect-data"
    description = (
        "Shows rows as the model gets them, and says what looks wrong with them. Takes what "
        "`lit-gpt fit` takes, and trains nothing."
    )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add how many rows to show."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--rows", type=int, default=3, help="How many rows to show.")

    def before_instantiate_classes(self) -> None:
        """Check the number of rows."""
        rows = self.config[self.command].rows
        if rows < 0:
            raise InputError(f"--rows {rows} must be at least 0")
        super().before_instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        module: Any = self.model
        data: Any = self.datamodule
        if isinstance(module, Task):
            module.leave_weights_out()
        self.trainer.strategy.connect(module)
        module.trainer = data.trainer = self.trainer
        data.prepare_data()
        data.setup("fit")
        self._show(data, rows_of_an_epoch(data.train_dataloader()))
        print(f"\nnext: {shlex.join(['lit-gpt', 'fit', *without(self._arguments, {'rows'})])}")

    def _show(self, data: Any, rows: Iterator[InspectedRow]) -> None:
        tokenizer: Tokenizer | None = getattr(data, "tokenizer", None)
        shown = list(islice(rows, self.config[self.command].rows))
        show_rows(shown, tokenizer, getattr(data, "label_names", None))
        rows = chain(shown, rows)
        counted = islice(rows, MOST_ROWS)
        if tokenizer is not None and hasattr(data, "generation_examples"):  # conversations
            findings = look_at(
                counted, begin_id_of(tokenizer), chat_end_ids(tokenizer), data.block_size
            )
        else:
            findings = look_at(counted, begin_id_of(tokenizer))
        if hasattr(data, "describe"):
            print(f"{data.describe()}\n")
        show_findings(findings, is_whole_epoch=next(rows, None) is None)


def begin_id_of(tokenizer: Tokenizer | None) -> int | None:
    """The token that a text or a conversation begins with, where there is one."""
    if tokenizer is None:
        return None
    if tokenizer.begin_ids:
        return tokenizer.begin_ids[0]
    token = tokenizer.begin_token
    return None if token is None else tokenizer.backend.token_to_id(token)

"""`lit-gpt inspect-data`: rows as the model gets them, and what looks wrong with them."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from lit_gpt_kit.checkpoints.load import load_tokenizer
from lit_gpt_kit.cli.main import DONE
from lit_gpt_kit.cli.train import TrainingCLI, quieten_libraries
from lit_gpt_kit.data.inspection import Findings, InspectedRow, Token, look_at, read_rows_of
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.chat_template import chat_end_ids
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

MOST_ROWS = 2000
"""Of a larger split so many rows of the first steps are counted."""
LEARNED, CONTEXT, PLAIN_MARKS = "bold green", "default", ("⟦", "⟧")
NUM_BARS, BAR_WIDTH = 10, 40


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    quieten_libraries()
    InspectingCLI(arguments)
    return DONE


class InspectingCLI(TrainingCLI):
    """`fit` up to its first batch: nothing is built, trained or written.

    Args:
        arguments: those of `fit`, and `--rows`.
    """

    def __init__(self, arguments: list[str]) -> None:
        super().__init__("fit", arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add how many rows to show."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--rows", type=int, default=3, help="How many rows to show.")

    def before_instantiate_classes(self) -> None:
        """No run folder."""
        if self.config["fit"].rows < 0:
            raise InputError(f"--rows {self.config['fit'].rows} must be at least 0")
        self._description = None
        self._needs_pretrained = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer that says how batches are shared, and leaves nothing."""
        kwargs |= {"logger": False, "enable_checkpointing": False, "barebones": False}
        return LightningCLI.instantiate_trainer(self, **kwargs)

    def _forget_run_folder(self) -> None:
        """There is none."""

    def _run_subcommand(self, subcommand: str) -> None:
        module: Any = self.model
        data: Any = self.datamodule
        # The tokenizer is all that is needed of a pretrained model where rows have a length.
        pretrained = getattr(module, "pretrained", None)
        if pretrained is not None and getattr(data, "_block_size", None) is not None:
            module.tokenizer, module.pretrained = load_tokenizer(pretrained), None
        self.trainer.strategy.connect(module)
        module.trainer = data.trainer = self.trainer
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader()
        self._show(data, islice(loader, len(loader)))

    def _show(self, data: Any, batches: Iterator[Any]) -> None:
        tokenizer: Tokenizer | None = getattr(data, "tokenizer", None)
        rows = list(islice((row for batch in batches for row in read_rows_of(batch)), MOST_ROWS))
        names = getattr(data, "label_names", None)
        show_rows(rows[: self.config["fit"].rows], tokenizer, names)
        begin = None if tokenizer is None else tokenizer.begin_token
        is_chat = tokenizer is not None and hasattr(data, "generation_examples")
        findings = look_at(
            rows,
            None if tokenizer is None or begin is None else tokenizer.backend.token_to_id(begin),
            chat_end_ids(tokenizer) if is_chat and tokenizer is not None else None,
            data.block_size if is_chat else None,
        )
        if hasattr(data, "describe"):
            print(f"{data.describe()}\n")
        show_findings(findings, has_targets=not names)
        configs = [str(path) for path in self.config["fit"].config or []]
        flags = " ".join(f"--config {shlex.quote(path)}" for path in configs)
        print(f"\nnext: lit-gpt fit {flags}")


def show_rows(
    rows: Sequence[InspectedRow], tokenizer: Tokenizer | None, names: Sequence[str] | None
) -> None:
    """Print rows, what is learned of them in green, or between marks where there is no terminal."""
    console = Console(soft_wrap=True, highlight=False)
    is_plain = not sys.stdout.isatty()
    if rows:
        how = "between ⟦ and ⟧" if is_plain else "in green"
        print(f"loss falls on what stands {how}; ⏎ is a line break; a rule parts documents\n")
    for number, row in enumerate(rows, start=1):
        label = "" if row.label is None else f", label {_name_label(row.label, names)}"
        title = (
            f"row {number}: {row.num_tokens:,} tokens, {row.num_learned:,} learned, "
            f"{row.num_positions:,} positions{label}"
        )
        print(title) if is_plain else console.print(Text(title, style="bold cyan"))
        for place, document in enumerate(row.documents):
            if place:
                print("-" * 40) if is_plain else console.print(Rule(style="cyan"))
            text = Text()
            for is_learned, stretch in groupby(document, key=lambda token: token.is_learned):
                words = spell(list(stretch), tokenizer)
                if is_plain and is_learned:
                    words = words.join(PLAIN_MARKS)
                text.append(words, style=LEARNED if is_learned else CONTEXT)
            print(text.plain) if is_plain else console.print(text)
        print()


def spell(tokens: Sequence[Token], tokenizer: Tokenizer | None) -> str:
    """The text of a stretch of tokens, line breaks made visible."""
    if tokenizer is None:
        return " ".join(str(token.id) for token in tokens)
    return tokenizer.decode([token.id for token in tokens]).replace("\n", "⏎\n")


def _name_label(label: Any, names: Sequence[str] | None) -> str:
    if names is None:
        return str(label)
    if isinstance(label, list):
        chosen = [name for name, is_there in zip(names, label, strict=True) if is_there]
        return ", ".join(chosen) or "none"
    return str(names[label])


def show_findings(findings: Findings, has_targets: bool) -> None:
    """Print counts, a histogram of lengths, and warnings."""
    padding = 1 - min(1.0, findings.num_tokens / max(1, findings.num_positions))
    share = findings.num_learned / max(1, findings.num_tokens)
    learned = f", {share:.1%} of them learned" if has_targets else ""
    print(
        f"{findings.num_rows:,} rows looked at: {len(findings.lengths):,} documents, "
        f"{findings.num_tokens:,} tokens{learned}; {padding:.1%} of all positions is padding"
    )
    if findings.lengths:
        print("length of a document, in tokens:")
        for line in histogram(findings.lengths):
            print(f"  {line}")
    for trouble, rows in findings.suspects.items():
        count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
        print(f"warning: {count}, the first is row {rows[0]}: {trouble}")
    if not findings.suspects:
        print("nothing looks wrong")


def histogram(lengths: Sequence[int]) -> list[str]:
    """A bar for each of at most ten ranges of equal width."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // NUM_BARS))
    starts = range(low, high + 1, width)
    counts = [sum(start <= length < start + width for length in lengths) for start in starts]
    digits = len(f"{high:,}")
    return [
        f"{start:>{digits},} to {min(start + width - 1, high):>{digits},}  "
        f"{'#' * -(-count * BAR_WIDTH // max(counts)):<{BAR_WIDTH}}  {count:,}"
        for start, count in zip(starts, counts, strict=True)
    ]

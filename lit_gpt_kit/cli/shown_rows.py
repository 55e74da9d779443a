"""Rows, and what was found in them, as people see them."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from lit_gpt_kit.data.inspection import Findings
from lit_gpt_kit.data.read_back import InspectedRow, Token
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

LEARNED, CONTEXT, SPECIAL, TITLE, PADDING = (
    "bold green",
    "default",
    " underline",
    "bold cyan",
    "dim",
)
PLAIN_MARKS = ("⟦", "⟧")
NUM_BARS, BAR_WIDTH = 10, 40


class Piece(NamedTuple):
    """Neighbouring tokens of one kind, spelled."""

    text: str
    is_learned: bool
    is_special: bool


def show_rows(
    rows: Sequence[InspectedRow], tokenizer: Tokenizer | None, names: Sequence[str] | None
) -> None:
    """Print rows, what is learned of them in green, or between marks where there is no colour.

    Args:
        rows: the rows.
        tokenizer: spells their tokens; without one their ids are printed.
        names: the labels in the order of their numbers.
    """
    if not rows:
        return
    console = Console(highlight=False, color_system="auto" if sys.stdout.isatty() else None)
    has_colour = console.color_system is not None and not console.no_color
    loss = "loss falls on what " + ("is green" if has_colour else "stands between ⟦ and ⟧")
    if rows[0].label is not None:
        loss = "loss falls on the label, which is read off a row's last token"
    special = "; special tokens are underlined" if has_colour else ""
    print(f"{loss}{special}; ⏎ is a line break; a rule parts documents\n")
    for number, row in enumerate(rows, start=1):
        title = f"row {number}: {row.num_tokens:,} tokens, "
        if row.label is None:
            title += f"{row.num_learned:,} learned"
        else:
            title += f"label {_name_label(row.label, names)}"
        console.print(Text(title, style=TITLE), soft_wrap=True)
        for place, document in enumerate(row.documents):
            if place:
                console.print(Rule(style=TITLE))
            text = _lay_out(spell(document, tokenizer), ("", "") if has_colour else PLAIN_MARKS)
            console.print(text, soft_wrap=True)
        if row.num_padding:
            padding = f"(padding: {row.num_padding:,})"
            console.print(Text(padding, style=PADDING), soft_wrap=True)
        print()


def spell(document: Sequence[Token], tokenizer: Tokenizer | None) -> Iterator[Piece]:
    """The text of a document, piece by piece, with what cannot be seen made visible."""
    added = {} if tokenizer is None else tokenizer.backend.get_added_tokens_decoder()

    def kind(token: Token) -> tuple[bool, bool]:
        return token.is_learned, token.id in added and added[token.id].special

    ids: list[int] = []
    before = ""
    for (is_learned, is_special), tokens in groupby(document, key=kind):
        ids += (token.id for token in tokens)
        # The whole so far, since some tokenizers drop the space that a text begins with.
        text = " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids)
        yield Piece(_make_visible(text[len(before) :]), is_learned, is_special)
        before = text


def _make_visible(text: str) -> str:
    """Line breaks marked, and no character left that a terminal obeys or does not show."""
    shown = (letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return "".join("⏎\n" if letter == r"\n" else letter for letter in shown)


def _lay_out(pieces: Iterator[Piece], marks: tuple[str, str]) -> Text:
    text = Text()
    for is_learned, stretch in groupby(pieces, key=lambda piece: piece.is_learned):
        start, end = marks if is_learned else ("", "")
        style = LEARNED if is_learned else CONTEXT
        text.append(start)
        for piece in stretch:
            text.append(piece.text, style=style + SPECIAL if piece.is_special else style)
        text.append(end)
    return text


def _name_label(label: Any, names: Sequence[str] | None) -> str:
    if names is None:
        return str(label)
    if isinstance(label, list):
        chosen = [name for name, is_there in zip(names, label, strict=True) if is_there]
        return ", ".join(chosen) or "none"
    return str(names[label])


def show_findings(findings: Findings, is_whole_epoch: bool) -> None:
    """Print counts, a histogram of lengths, and warnings.

    Args:
        findings: what was found.
        is_whole_epoch: nothing of an epoch was left out.
    """
    num_documents = len(findings.lengths)
    unit = "row" if num_documents == findings.num_rows else "document"
    rows = f"all {findings.num_rows:,} rows of an epoch"
    if not is_whole_epoch:
        rows = f"the first {findings.num_rows:,} rows of training"
    documents = "" if unit == "row" else f"{num_documents:,} documents, "
    learned = ""
    if findings.num_learned:
        learned = f", {findings.num_learned / findings.num_tokens:.1%} of them learned"
    padding = findings.num_padding / max(1, findings.num_positions)
    print(
        f"{rows}: {documents}{findings.num_tokens:,} tokens{learned}; "
        f"{padding:.1%} of all positions is padding"
    )
    if findings.lengths:
        print(f"length of a {unit}, in tokens:")
        for line in histogram(findings.lengths):
            print(f"  {line}")
    for trouble, suspects in findings.suspects.items():
        count = "1 row" if len(suspects) == 1 else f"{len(suspects):,} rows"
        print(f"warning: {count}, the first is row {suspects[0]}: {trouble}")
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

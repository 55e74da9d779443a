"""What rows have in common, and what looks wrong with them."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lit_gpt_kit.data.read_back import InspectedRow, Token
from lit_gpt_kit.data.token_rows import PADDING_ID

NO_LOSS = (
    "no loss falls on it, so nothing is learned from it; raise block_size if its answer lies "
    "behind that, or leave such rows out"
)
CUT = "an answer in it is cut off at block_size; raise block_size, or leave such rows out"
NO_END = (
    "an answer in it ends with no token that ends a turn, so the model never learns to stop; use "
    "a chat template that writes one"
)
TWO_BEGINS = (
    "it begins with the begin token twice; let the template or the tokenizer write it, not both"
)
NOTHING = Token(PADDING_ID, is_learned=False)


@dataclass
class Findings:
    """What rows have in common, and where something looks wrong.

    Attributes:
        lengths: of every document, in tokens.
        num_rows: how many rows were looked at.
        num_positions: their lengths together, padding included.
        num_padding: how much of that is padding.
        num_learned: tokens on which loss falls.
        suspects: for each kind of trouble the numbers of the rows that have it, in the order in
            which they were looked at, from 1.
    """

    lengths: list[int] = field(default_factory=list)
    num_rows: int = 0
    num_positions: int = 0
    num_padding: int = 0
    num_learned: int = 0
    suspects: dict[str, list[int]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """All tokens that were looked at."""
        return sum(self.lengths)


def look_at(
    rows: Iterable[InspectedRow],
    begin_id: int | None = None,
    end_ids: Collection[int] | None = None,
    block_size: int | None = None,
) -> Findings:
    """Count tokens, and find rows that look wrong.

    Args:
        rows: the rows.
        begin_id: the token that a text begins with, where there is one.
        end_ids: the tokens that end an answer; None where rows are no conversations.
        block_size: where conversations are cut.
    """
    findings = Findings()
    for number, row in enumerate(rows, start=1):
        findings.num_rows = number
        findings.num_positions += row.num_positions
        findings.num_padding += row.num_padding
        findings.num_learned += row.num_learned
        findings.lengths += map(len, row.documents)
        troubles = [NO_LOSS] if _learns_nothing(row, end_ids is not None) else []
        for document in row.documents:
            if begin_id is not None and [token.id for token in document[:2]] == [begin_id] * 2:
                troubles.append(TWO_BEGINS)
            if end_ids is not None:
                troubles += _troubles_of_answers(document, end_ids, block_size)
        for trouble in dict.fromkeys(troubles):
            findings.suspects.setdefault(trouble, []).append(number)
    return findings


def _learns_nothing(row: InspectedRow, is_chat: bool) -> bool:
    """Whether no loss falls on a row, or on a whole conversation of it.

    The last token of a text may stand alone at a row's beginning, and nothing is wrong with it.
    """
    if row.label is not None:
        return False
    learns = [any(token.is_learned for token in document) for document in row.documents]
    return not any(learns) or (is_chat and not all(learns))


def _troubles_of_answers(
    document: Sequence[Token], end_ids: Collection[int], block_size: int | None
) -> Iterator[str]:
    following = pairwise([*document, NOTHING])
    for length, (token, next_token) in enumerate(following, start=1):
        is_last_of_answer = token.is_learned and not next_token.is_learned
        if is_last_of_answer and token.id not in end_ids:
            # Where a conversation is cut, a block was read, and one token more is a target.
            yield CUT if block_size is not None and length > block_size else NO_END

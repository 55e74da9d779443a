"""A text as characters: random rows of its first nine tenths, and a loss over all the rest."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

LossOf = Callable[[Tensor, Tensor], Tensor]
"""Token ids and the ids that follow, both (batch, seq), to their mean loss."""


class Characters:
    """Ids of the characters of a text, numbered by their order in Unicode."""

    def __init__(self, path: str, device: str = "cpu") -> None:
        text = Path(path).read_text(encoding="utf-8")
        ids = {character: index for index, character in enumerate(sorted(set(text)))}
        self.vocab_size = len(ids)
        everything = torch.tensor([ids[character] for character in text], device=device)
        cut = int(0.9 * len(everything))
        self.train, self.val = everything[:cut], everything[cut:]

    def batch(self, num_rows: int, block_size: int) -> tuple[Tensor, Tensor]:
        """Random rows to train on, and what follows each of their characters."""
        starts = torch.randint(len(self.train) - block_size, (num_rows, 1))
        places = (starts + torch.arange(block_size)).to(self.train.device)
        return self.train[places], self.train[places + 1]

    @torch.no_grad()
    def validate(self, loss_of: LossOf, block_size: int, num_rows: int = 32) -> float:
        """Mean loss over the whole validation part, each character once, in nats."""
        num_targets = len(self.val) - 1
        whole = num_targets // block_size * block_size
        parts = [
            *zip(
                self.val[:whole].view(-1, block_size).split(num_rows),
                self.val[1 : whole + 1].view(-1, block_size).split(num_rows),
                strict=True,
            ),
            (self.val[None, whole:-1], self.val[None, whole + 1 :]),
        ]
        total: float = sum(
            loss_of(ids, targets).item() * ids.numel() for ids, targets in parts if len(ids.T)
        )
        return total / num_targets

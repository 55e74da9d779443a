"""What a contestant is asked to do, and how it answers. Imports neither torch nor our package."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Size:
    """A GPT-2 of this shape, and the rows that it is trained on."""

    num_layers: int
    num_heads: int
    embed_dim: int
    block_size: int
    batch_size: int
    vocab_size: int = 65

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.block_size


SIZES = {
    "0.8M": Size(4, 4, 128, 64, 12),
    "10.65M": Size(6, 6, 384, 256, 8),
    "124M": Size(12, 12, 768, 256, 2, vocab_size=50304),
}


@dataclass(frozen=True)
class Assignment:
    """One turn: so many steps, or as many as fit into the seconds."""

    text: str
    """A file; its first nine tenths are trained on, the rest is validated on."""
    size: str = "0.8M"
    threads: int = 1
    warm_up: int = 10
    """Steps at the beginning whose time does not count."""
    steps: int = 30
    """Steps after them."""
    seconds: float | None = None
    """Train as long as this instead, and measure the loss on the whole validation part."""
    evaluate_every: int | None = None
    """Measure that loss whenever so many steps are done, too."""
    precision: str = "bf16"
    """bf16 (autocast) or fp32."""
    nanogpt: str | None = None
    """nanoGPT's model.py."""

    @property
    def shape(self) -> Size:
        return SIZES[self.size]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def answer(contestant: Callable[[Assignment], dict[str, Any]]) -> None:
    """Do what the command line asks, and print the figures as the last line."""
    print(json.dumps(contestant(Assignment(**json.loads(sys.argv[1])))))

"""Short rows first: early steps cut their rows, which makes attention cheaper on every kernel."""

from dataclasses import dataclass

from torch import Tensor

from lit_gpt_kit.errors import InputError


@dataclass(frozen=True)
class WindowWarmup:
    """Early steps cut each row into shorter ones, which double until they are whole.

    Tokens and targets stay as they are; what lies before a cut is not seen. Early on a network
    learns from the last few tokens alone, so little is lost (Press et al. 2021, "Shortformer",
    section 4; Li et al. 2022, sequence-length warm-up). A sliding window that grows, as in
    modded-nanogpt, would spare the tokens behind a cut, but only a kernel that skips what is masked
    gains by it.
    """

    start: int
    """Tokens that a row is cut to at first; a longer block is that times a power of two."""
    steps: int
    """Optimiser steps until rows are whole."""

    def __post_init__(self) -> None:
        """Refuse counts that count nothing.

        Raises:
            InputError: naming the value.
        """
        for name in ("start", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"window_warmup.{name}={getattr(self, name)} must be at least 1")

    def window(self, step: int, block_size: int) -> int:
        """How long the rows of this step are, from 0.

        Raises:
            InputError: the block is not reached by doubling.
        """
        if self.start >= block_size:
            return block_size  # a recipe for longer rows
        times = block_size // self.start
        if self.start * times != block_size or times & (times - 1):
            raise InputError(
                f"window_warmup.start={self.start} does not come to rows of {block_size} tokens by "
                "doubling; choose another start"
            )
        num_doublings = times.bit_length() - 1
        return self.start << num_doublings * min(step, self.steps) // self.steps

    def cut(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """A batch of full rows (batch, seq), as this step reads it: more rows, and shorter ones.

        Raises:
            InputError: the rows are conversations, of which no part stands alone.
        """
        if "target_positions" in batch:
            raise InputError(
                "window_warmup cuts rows anywhere, and an answer needs its question; leave it out "
                "with data of conversations"
            )
        window = self.window(step, batch["input_ids"].shape[1])
        by_token = ("input_ids", "targets", "document_ids")
        return {
            name: value.reshape(-1, window) if name in by_token else value
            for name, value in batch.items()
        }

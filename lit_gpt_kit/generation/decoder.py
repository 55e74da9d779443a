"""Feeds texts to the network, each token once, and gives the logits of what follows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_gpt_kit.generation.packed import pack
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.kv_cache import KVCache

PREFILL_CHUNK = 2048
"""Tokens of a prompt read at once; bounds the memory of a long one, and of a window's ring."""
WORTH_PACKING = 32
"""Tokens read from which on the matrices are packed first."""


class Decoder:
    """The growing texts of a batch, and the keys and values of what was read of them.

    Args:
        model: the network.
        texts: token ids, at least one each, none longer than the block.
        max_new_tokens: how much each will grow.
        max_drafts: most tokens guessed at once.

    Attributes:
        texts: what the network is to read; when one outgrows the block, its latest half remains.
    """

    def __init__(
        self, model: GPT, texts: Sequence[Sequence[int]], max_new_tokens: int, max_drafts: int = 0
    ) -> None:
        # Packing reads and writes every weight once, as a few tokens do.
        num_tokens = max(map(len, texts)) + max_new_tokens
        self.model = pack(model) if num_tokens >= WORTH_PACKING else model
        self.texts = [list(text) for text in texts]
        self.max_new_tokens = max_new_tokens
        self.block_size = model.config.block_size
        self.device = model.device
        # Where rotary positions change with the length of the text, nothing read before counts.
        self.switch = None if model.rotary is None else model.rotary.short_block
        self.max_drafts = 0 if self.switch is not None else max_drafts
        self._cache: KVCache | None = None

    def room(self, row: int) -> int:
        """How many more tokens of a row may be read before it outgrows the block."""
        return self.block_size - len(self.texts[row])

    # Here and not around the loop: that is a generator, which a caller may wrap in anything.
    @torch.inference_mode()
    def read(self, drafts: Sequence[Sequence[int]], is_open: Sequence[bool]) -> Tensor:
        """Read what the texts have gained since the last time, and the drafts behind it.

        Args:
            drafts: for each row, tokens that may follow, no more than its `room`.
            is_open: rows that are still of interest; of the others nothing is read.

        Returns:
            Logits (batch, 1 + longest draft, vocab): what follows each text, and each draft.
        """
        cache = self._cache
        if cache is not None and not self._must_start_anew(is_open):
            news = [[*text[-1:], *draft] for text, draft in zip(self.texts, drafts, strict=True)]
            # What was drafted and then not taken is forgotten.
            cache.lengths = [len(text) - 1 for text in self.texts]
            return self._logits(self._feed(cache, news, is_open))
        self.texts = [self._latest(text) for text in self.texts]
        longest = max(map(len, self.texts))
        chunk = longest if self.switch is not None else min(longest, PREFILL_CHUNK)
        cache = self._cache = KVCache(
            self.model.config,
            len(self.texts),
            min(longest + self.max_new_tokens, self.block_size),
            max(chunk, 1 + self.max_drafts),
            self.device,
            # One query's attention takes a CPU several times longer in bfloat16.
            torch.float32 if self.device.type == "cpu" else self.model.dtype,
        )
        shape = (len(self.texts), 1, self.model.config.embed_dim)
        last = torch.empty(shape, device=self.device, dtype=self.model.dtype)
        for start in range(0, longest, chunk):
            news = [text[start : start + chunk] for text in self.texts]
            hidden = self._feed(cache, news, [True] * len(news))
            for row, new in enumerate(news):
                if new and start + len(new) == len(self.texts[row]):
                    last[row, 0] = hidden[row, len(new) - 1]
        return self._logits(last)

    def _must_start_anew(self, is_open: Sequence[bool]) -> bool:
        lengths = [len(text) for text, is_open in zip(self.texts, is_open, strict=True) if is_open]
        return any(n > self.block_size or n - 1 == self.switch for n in lengths)

    def _latest(self, text: list[int]) -> list[int]:
        if len(text) <= self.block_size:
            return text
        return text[-max(1, self.block_size // 2) :]

    def _feed(
        self, cache: KVCache, news: Sequence[Sequence[int]], is_open: Sequence[bool]
    ) -> Tensor:
        longest = max(map(len, news))
        ids = torch.tensor([[*new, *[0] * (longest - len(new))] for new in news])
        counts = [len(new) if wanted else 0 for new, wanted in zip(news, is_open, strict=True)]
        return self.model.hidden_states(ids.to(self.device), cache=cache, counts=counts)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(hidden)
        return logits[..., : self.model.config.vocab_size]  # padding is never chosen

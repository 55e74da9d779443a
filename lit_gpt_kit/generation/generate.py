"""The loop: read the prompts once, then choose a token for every row and read it."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.generation.decoder import Decoder
from lit_gpt_kit.generation.drafts import PromptLookup
from lit_gpt_kit.generation.sampling import SamplingConfig, choose_tokens
from lit_gpt_kit.generation.stopping import Continuation
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.tokenizer import Tokenizer


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig = SamplingConfig(),  # noqa: B008
    tokenizer: Tokenizer | None = None,
    stop_ids: Collection[int] = (),
    max_drafts: int = 0,
) -> list[list[int]]:
    """The new tokens of each prompt.

    Args:
        model: the network, in eval mode.
        prompts: token ids, of any lengths.
        config: how tokens are chosen. With a seed, a prompt's continuation does not depend on the
            other prompts; the same prompt given several times is continued in several ways.
        tokenizer: needed for `config.stop`. Ids that it has no token for are never chosen: the
            tables of many pretrained models have more rows than there are tokens.
        stop_ids: tokens that end a continuation, beside the model's own.
        max_drafts: how many tokens to guess at a time where a text repeats itself; the network
            checks them in one pass. Changes the speed, not the text.

    Returns:
        For each prompt its new tokens, without the end token or a stop text.

    Raises:
        InputError: a prompt is longer than the block, or stop texts are given without a tokenizer.
    """
    rows: list[Continuation] = []
    steps = generate_steps(model, prompts, config, tokenizer, stop_ids, max_drafts)
    for rows in steps:  # noqa: B007
        pass
    return [row.ids for row in rows]


def complete(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    config: SamplingConfig,
    stop_ids: Collection[int] = (),
    max_drafts: int = 0,
) -> list[Continuation]:
    """The continuations of prompts, with their text and the reason they ended.

    Args:
        model: the network, in eval mode.
        tokenizer: its tokenizer.
        prompts: texts, or token ids.
        config: how tokens are chosen.
        stop_ids: tokens that end a continuation, beside the model's own.
        max_drafts: as in `generate`.

    Raises:
        InputError: a prompt is longer than the block.
    """
    rows: list[Continuation] = []
    encoded = iter(tokenizer.encode_batch([text for text in prompts if isinstance(text, str)]))
    ids = [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]
    steps = generate_steps(model, ids, config, tokenizer, stop_ids, max_drafts)
    for rows in steps:  # noqa: B007
        pass
    return rows


def generate_steps(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig = SamplingConfig(),  # noqa: B008
    tokenizer: Tokenizer | None = None,
    stop_ids: Collection[int] = (),
    max_drafts: int = 0,
) -> Iterator[list[Continuation]]:
    """Like `generate`, but yields the growing continuations after every pass of the network.

    A text may outgrow the block: the network then reads the latest half of the block anew, as the
    beginning of a new context.
    """
    if max_drafts < 0:
        raise InputError(f"max_drafts={max_drafts} must be at least 0")
    if config.stop and tokenizer is None:
        raise InputError("stop texts need a tokenizer; pass one to generate")
    texts = [_checked_prompt(model, prompt) for prompt in prompts]
    if not texts:
        return
    ends = (*model.config.stop_token_ids, *stop_ids)
    rows = [
        Continuation(model.config.end_token_id, config.stop, tokenizer, ends, text)
        for text in texts
    ]
    decoder = Decoder(model, texts, config.max_new_tokens, max_drafts)
    chooser = _Chooser(texts, config, model, tokenizer)
    lookups = [PromptLookup(text) for text in texts] if decoder.max_drafts else []
    drafts: list[list[int]] = [[] for _ in rows]
    while not all(row.finished for row in rows):
        is_open = [not row.finished for row in rows]
        logits = decoder.read(drafts, is_open)
        for place in range(logits.shape[1]):
            for number, token_id in chooser.choose(logits[:, place], is_open):
                row = rows[number]
                row.feed(token_id)
                decoder.texts[number].append(token_id)
                if chooser.num_chosen[number] == config.max_new_tokens:
                    row.close()
                if lookups:
                    lookups[number].extend([token_id])
                # The next place follows a draft: it counts if the draft is what was chosen.
                was_right = drafts[number][place : place + 1] == [token_id]
                is_open[number] = was_right and not row.finished
            if not any(is_open):
                break
        yield rows
        for number, lookup in enumerate(lookups):
            # For a row that is done nothing is read, and its guesses would widen the others' pass.
            left = config.max_new_tokens - chooser.num_chosen[number] - 1
            most = min(decoder.max_drafts, decoder.room(number), left)
            drafts[number] = [] if rows[number].finished else lookup.draft(most)


class _Chooser:
    """Chooses the rows' tokens, each from the random number of its own row and place."""

    def __init__(
        self,
        texts: list[list[int]],
        config: SamplingConfig,
        model: GPT,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.config = config
        self._is_no_token = None if tokenizer is None else ids_without_token(model, tokenizer)
        self.num_chosen = [0] * len(texts)
        self._uniforms = _draw_uniforms(texts, config).to(model.device)
        self._seen: Tensor | None = None
        if config.repetition_penalty != 1:
            assert model.config.vocab_size is not None
            shape = (len(texts), model.config.vocab_size)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=model.device)
            for row, text in enumerate(texts):
                self._seen[row, text] = True

    @torch.inference_mode()
    def choose(self, logits: Tensor, is_open: list[bool]) -> list[tuple[int, int]]:
        """The next token of each open row, with the row's number."""
        if self._is_no_token is not None:
            logits = logits.masked_fill(self._is_no_token, -torch.inf)
        last = self.config.max_new_tokens - 1
        rows = torch.arange(len(is_open), device=logits.device)
        places = torch.tensor([min(n, last) for n in self.num_chosen], device=logits.device)
        chosen = choose_tokens(logits, self.config, self._uniforms[rows, places], self._seen)
        tokens = chosen.tolist()
        pairs = [(row, token) for row, token in enumerate(tokens) if is_open[row]]
        for row, token in pairs:
            self.num_chosen[row] += 1
            if self._seen is not None:
                self._seen[row, token] = True
        return pairs


def ids_without_token(model: GPT, tokenizer: Tokenizer) -> Bool[Tensor, " vocab"] | None:
    """Which of the ids that a network scores stand for nothing; None where each is a token."""
    vocab_size = model.config.vocab_size or 0
    is_no_token = torch.ones(vocab_size, dtype=torch.bool)
    is_no_token[[token_id for token_id in tokenizer.ids if token_id < vocab_size]] = False
    return is_no_token.to(model.device) if is_no_token.any() else None


def _checked_prompt(model: GPT, prompt: Sequence[int]) -> list[int]:
    ids, block_size, end_id = list(prompt), model.config.block_size, model.config.end_token_id
    if not ids:
        if end_id is None:
            raise InputError("the prompt is empty; give at least one character to start from")
        return [end_id]  # what a new document begins after
    vocab_size = model.config.vocab_size
    assert vocab_size is not None
    wrong = next((token_id for token_id in ids if not 0 <= token_id < vocab_size), None)
    if wrong is not None:
        raise InputError(f"token {wrong} is not one of the model's {vocab_size} tokens")
    if len(ids) > block_size:
        raise InputError(
            f"the prompt is {len(ids)} tokens long, longer than the model's block_size="
            f"{block_size}; shorten it"
        )
    return ids


def _draw_uniforms(texts: list[list[int]], config: SamplingConfig) -> Tensor:
    """A row of uniform numbers for each prompt, from the seed, the prompt and its repetition."""
    # A generator of its own: torch.seed() would reseed a training run that samples.
    seed = torch.Generator().seed() if config.seed is None else config.seed
    times: Counter[tuple[int, ...]] = Counter()
    draws = []
    for text in texts:
        repetition = times[tuple(text)]
        times[tuple(text)] += 1
        digest = hashlib.sha256(f"{seed} {repetition} {text}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        draws.append(torch.rand(config.max_new_tokens, generator=generator))
    return torch.stack(draws)

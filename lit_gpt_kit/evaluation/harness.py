"""HarnessModel: a MODEL of ours, as EleutherAI's lm-evaluation-harness asks for one.

    lm_eval.simple_evaluate(HarnessModel("runs/mine/latest"), tasks=["hellaswag"])

Texts are cut and windows laid as the harness's own `hf` model does, so that the numbers agree.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lit_gpt_kit.checkpoints.load import load_model
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.generation.generate import generate_steps
from lit_gpt_kit.generation.sampling import SamplingConfig
from lit_gpt_kit.generation.stopping import Continuation
from lit_gpt_kit.tokenization.chat_template import Message, render_chat

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError:
    raise InputError(
        "HarnessModel needs lm-evaluation-harness; pip install 'lit-gpt-kit[eval]'"
    ) from None

MAX_LOGITS = 2**26
"""Most logits held at once, 256 MiB of them."""
SAMPLING_WORDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""The texts, the tokens of the context, and the tokens to be scored behind it."""
Item = TypeVar("Item")


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the library is not typed
    """Scores texts and generates, for `lm_eval.simple_evaluate(model=...)`.

    Args:
        model: what `load_model` takes.
        batch_size: texts read at a time.
        dtype: of the weights.
        device: where to run; a GPU where there is one.
        max_length: longest text in tokens, at most and by default the model's block; longer ones
            lose their beginning.
        max_gen_toks: longest answer, in tokens, where the task does not say.

    Raises:
        MissingFileError: there is no such model.
        InputError: it is none that can be read, or `max_length` is beyond its block.
    """

    def __init__(
        self,
        model: str | Path,
        batch_size: int = 8,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
    ) -> None:
        super().__init__()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.tokenizer = load_model(model, dtype, device)
        block_size = self.model.config.block_size
        self.max_length = block_size if max_length is None else max_length
        if not 1 <= self.max_length <= block_size:
            raise InputError(f"max_length={max_length} must be 1 to the model's {block_size}")
        self.batch_size = batch_size
        self.max_gen_toks = max_gen_toks
        self.name = str(model)
        self._device = self.model.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        if self.tokenizer.end_id is None:
            raise InputError("the model's tokenizer has no end token, before which texts begin")
        return self.tokenizer.end_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is read behind: the begin token, else the end token."""
        if self.tokenizer.begin_token is None:
            return self.eot_token_id
        token_id = self.tokenizer.backend.token_to_id(self.tokenizer.begin_token)
        return self.eot_token_id if token_id is None else token_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The text's tokens, behind the begin token unless the text spells it."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.token(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens)

    @property
    def tokenizer_name(self) -> str:
        """By which the harness tells its caches of rendered questions apart."""
        return self.name.replace("/", "__")

    def apply_chat_template(
        self, chat_history: Sequence[Message], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; without the prompt its last message is left open."""
        text = render_chat(self.tokenizer, chat_history, add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, in nats, and whether greedy choice writes it."""
        # Answers that differ in the last token alone are read together.
        readers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise InputError(
                    f"an answer of {len(continuation)} tokens is longer than the model's "
                    f"max_length={self.max_length}; leave the task out"
                )
            whole = (*(context or [self.prefix_token_id]), *continuation)
            if continuation:  # nothing is certain to follow
                readers[whole[-self.max_length - 1 : -1]].append(number)
        scores = [(0.0, True)] * len(requests)
        texts = sorted(readers, key=len, reverse=True)
        for batch in _batches(texts, self.batch_size, "Scoring", disable_tqdm):
            for row, text in zip(self._hidden_states(batch), batch, strict=True):
                for number in readers[text]:
                    targets = torch.tensor(requests[number][2])
                    states = row[len(text) - len(targets) : len(text)]
                    scores[number] = self._score(states, targets)
        return scores

    def _hidden_states(self, texts: Sequence[Sequence[int]]) -> Tensor:
        # Padding comes last, where no token of the text sees it.
        rows = [torch.tensor(text) for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return self.model.hidden_states(ids.to(self.model.device))

    def _score(self, states: Tensor, targets: Tensor) -> tuple[float, bool]:
        targets = targets.to(states.device)
        total, is_greedy = 0.0, True
        size = max(1, MAX_LOGITS // self.model.lm_head.out_features)
        parts = torch.split(states, size), torch.split(targets, size)
        for some, wanted in zip(*parts, strict=True):
            log_probs = self.model.lm_head(some).float().log_softmax(-1)
            total += float(log_probs.gather(-1, wanted[:, None]).sum())
            is_greedy = is_greedy and bool((log_probs.argmax(-1) == wanted).all())
        return total, is_greedy

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text, in nats; a long one is read in windows."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            ids, prefix = self.tok_encode(text), self.prefix_token_id
            for pair in get_rolling_token_windows(ids, prefix, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(number)
        totals = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows, disable_tqdm)
        for number, (score, _) in zip(owners, scores, strict=True):
            totals[number] += score
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each text, up to the stop texts that its task names."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[repr(request.args[1])].append(number)
        answers = [""] * len(requests)
        for numbers in groups.values():
            config = self._sampling(requests[numbers[0]].args[1])
            room = self.max_length - config.max_new_tokens
            if room < 1:
                raise InputError(
                    f"max_gen_toks={config.max_new_tokens} leaves no room for a question in the "
                    f"model's max_length={self.max_length}; lower it"
                )
            prompts = {number: self.tok_encode(requests[number].args[0]) for number in numbers}
            numbers.sort(key=lambda number: len(prompts[number]), reverse=True)
            for batch in _batches(numbers, self.batch_size, "Generating", disable_tqdm):
                texts = [prompts[number][-room:] for number in batch]
                for number, text in zip(batch, self._continue(texts, config), strict=True):
                    answers[number] = text
        return answers

    def _sampling(self, options: dict[str, Any]) -> SamplingConfig:
        known = dict(normalize_gen_kwargs(options, self.max_gen_toks))
        stop = tuple(text for text in known.pop("until") if text)
        most = known.pop("max_gen_toks")
        if not known.pop("do_sample", False):
            known["temperature"] = 0.0
        unknown = next((word for word in known if word not in SAMPLING_WORDS), None)
        if unknown is not None:
            raise InputError(f"generation_kwargs: {unknown}={known[unknown]} is not known here")
        # The harness seeds torch, so that a run can be repeated.
        seed = int(torch.randint(2**31, ())) if known["temperature"] else None
        return SamplingConfig(max_new_tokens=most, stop=stop, seed=seed, **known)

    def _continue(self, prompts: list[list[int]], config: SamplingConfig) -> list[str]:
        ends = [self.eot_token_id]
        rows: list[Continuation] = []
        steps = generate_steps(self.model, prompts, config, self.tokenizer, ends)
        for rows in steps:  # noqa: B007
            pass
        return [self._text(row) for row in rows]

    def _text(self, row: Continuation) -> str:
        """A continuation as the harness reads one: as a text of its own, without special tokens."""
        if row.finish_reason != "stop":
            return self.tokenizer.decode(row.ids, skip_special_tokens=True)
        # The stop text may begin within a token, whose first letters no id stands for.
        text = row.text.removeprefix(" ") if self._drops_first_space else row.text
        for token in self.tokenizer.backend.get_added_tokens_decoder().values():
            if token.special:
                text = text.replace(token.content, "")
        return text

    @cached_property
    def _drops_first_space(self) -> bool:
        """SentencePiece spells a text without the space that it begins with."""
        ids = self.tokenizer.backend.encode(" a", add_special_tokens=False).ids
        return self.tokenizer.decode(ids * 2) != self.tokenizer.decode(ids) * 2


def _batches(
    items: Sequence[Item], size: int, title: str, is_silent: bool
) -> Iterator[Sequence[Item]]:
    with tqdm(total=len(items), desc=title, disable=is_silent) as bar:
        for start in range(0, len(items), size):
            yield items[start : start + size]
            bar.update(min(size, len(items) - start))

"""SampleText: what the model writes after each validation, from the same prompts every time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.generation.sampling import SamplingConfig
from lit_gpt_kit.ranks import shares_model
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

COLUMNS = ("step", "tokens", "prompt", "text")


class SampleText(Callback):
    """Has the model continue fixed prompts with a fixed seed at every validation of a training.

    The samples go to `RUN_DIR/samples.md`, to the terminal, and into one growing W&B table,
    `samples`. They are part of the checkpoint, so that a run that goes on keeps those that it had
    and drops those of steps that it is about to repeat.

    Works with any LightningModule that has `generate(prompt, max_new_tokens, ...) -> str`, or
    `answer(conversations, ...)` where the data are conversations: the prompts are then questions.
    Writes nothing where the strategy lays the model over devices (FSDP2, tensor parallel).

    Args:
        prompts: texts to continue; by default the beginning of a text, or a question of the
            validation rows.
        max_new_tokens: longest sample, in tokens.
        temperature: 0 is greedy.
        top_k: sample from so many likeliest tokens; None is all.
        seed: of the sampling.
        every_n_validations: sample at each n-th validation.
        path: of the file; samples.md in the Trainer's folder by default.
        is_shown: print the samples, too.
    """

    def __init__(
        self,
        prompts: str | Sequence[str] = (),
        max_new_tokens: int = 100,
        temperature: float = 0.8,
        top_k: int | None = 50,
        seed: int = 0,
        every_n_validations: int = 1,
        path: str | Path | None = None,
        is_shown: bool = True,
    ) -> None:
        try:
            SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k)
        except InputError as error:
            raise InputError(f"SampleText: {error}") from error
        if every_n_validations < 1:
            raise InputError(
                f"SampleText: every_n_validations={every_n_validations} must be at least 1"
            )
        self.prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        self.sampling = {"temperature": temperature, "top_k": top_k, "seed": seed}
        self.max_new_tokens = max_new_tokens
        self.every_n_validations = every_n_validations
        self.path = None if path is None else Path(path)
        self.is_shown = is_shown
        self._rows: list[list[Any]] = []
        self._num_validations = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the prompts, and refuse what would fail hours later.

        Raises:
            InputError: the module writes no text, or a prompt fills its block, or is empty where
                a text cannot begin with nothing.
        """
        if not _can_write(pl_module):
            raise InputError(f"SampleText: {type(pl_module).__name__} has no `generate`; leave "
                             "the callback out")  # fmt: skip
        if not self.prompts:
            self.prompts = (_default_prompt(trainer, pl_module),)
        tokenizer = getattr(pl_module, "tokenizer", None)
        block_size = getattr(pl_module, "block_size", None)
        if not isinstance(tokenizer, Tokenizer) or block_size is None:
            return
        for prompt in self.prompts:
            length = len(tokenizer.encode(prompt))
            if not length and tokenizer.end_id is None and not _asks(trainer, pl_module):
                raise InputError("SampleText: a prompt is empty; give it at least one character")
            if length >= block_size:
                raise InputError(
                    f"SampleText: the prompt {prompt[:30]!r}... has {length} tokens and leaves no "
                    f"room in block_size={block_size}; shorten it"
                )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, at each n-th validation of a training."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if shares_model(trainer):
            return  # ranks that write texts of unequal length would wait for each other for ever
        self._num_validations += 1
        if self._num_validations % self.every_n_validations:
            return
        with isolate_rng():  # training draws what it would have drawn without this callback
            texts = [self._write(trainer, pl_module, prompt) for prompt in self.prompts]
        tokens = getattr(pl_module, "num_tokens_seen", None)
        for prompt, text in zip(self.prompts, texts, strict=True):
            self._rows.append([trainer.global_step, tokens, prompt, text])
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._keep(trainer, pl_module, texts)

    def state_dict(self) -> dict[str, Any]:
        """All samples so far."""
        return {"rows": self._rows, "num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the samples that there are."""
        self._rows = state_dict["rows"]
        self._num_validations = state_dict["num_validations"]

    @property
    def last_text(self) -> str | None:
        """The newest sample, if it was shown."""
        return str(self._rows[-1][-1]) if self._rows and self.is_shown else None

    def _write(self, trainer: Trainer, module: Any, prompt: str) -> str:
        options = {"max_new_tokens": self.max_new_tokens, **self.sampling}
        if _asks(trainer, module):
            (answer,) = module.answer([[{"role": "user", "content": prompt}]], **options)
            return f"\n\n{answer}"
        return str(module.generate(prompt, **options))

    def _keep(self, trainer: Trainer, module: LightningModule, texts: Sequence[str]) -> None:
        path = self.path or Path(trainer.default_root_dir) / "samples.md"
        write_atomically(path, _page(self._rows))
        if self.is_shown:
            for prompt, text in zip(self.prompts, texts, strict=True):
                lines = f"{prompt}{text}".strip("\n").splitlines()
                sample = "\n".join(f"  | {line}" for line in lines)
                module.print(f"sample at step {trainer.global_step:,}:\n{sample}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                # Lightning's own would send all rows each time.
                log = getattr(logger, "log_growing_table", logger.log_table)
                log("samples", list(COLUMNS), self._rows)


def default_prompt(tokenizer: Tokenizer) -> str:
    """What a text of this tokenizer may begin with: nothing, where a token ends the one before."""
    return "" if tokenizer.end_id is not None else tokenizer.token(0)


def _default_prompt(trainer: Trainer, module: Any) -> str:
    if _asks(trainer, module):
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for example in data.generation_examples("val")[:1]:
            return str(example.messages[-1]["content"])
    tokenizer = getattr(module, "tokenizer", None)
    return default_prompt(tokenizer) if isinstance(tokenizer, Tokenizer) else "\n"


def _can_write(module: Any) -> bool:
    return hasattr(module, "generate") or hasattr(module, "answer")


def _asks(trainer: Trainer, module: Any) -> bool:
    data = getattr(trainer, "datamodule", None)
    return hasattr(module, "answer") and hasattr(data, "generation_examples")


def _page(rows: Sequence[Sequence[Any]]) -> str:
    """The samples as Markdown, the newest first."""
    parts = ["# Samples\n"]
    last_step = None
    for step, tokens, prompt, text in sorted(rows, key=lambda row: -row[0]):
        if step != last_step:
            seen = "" if tokens is None else f", {tokens:,} tokens"
            parts.append(f"\n## Step {step:,}{seen}\n")
            last_step = step
        # A fence longer than any in the text cannot be closed by it.
        fence = "`" * max(3, 1 + _longest_fence(prompt + text))
        parts.append(f"\n{fence}text\n{prompt}{text}\n{fence}\n")
    return "".join(parts)


def _longest_fence(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest

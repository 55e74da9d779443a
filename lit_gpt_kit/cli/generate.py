"""`lit-gpt generate`: continue a prompt, as text that streams or as JSON lines."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from lit_gpt_kit.cli.parsing import build_parser, instantiate, parse
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.files import write_atomically

if TYPE_CHECKING:
    from lit_gpt_kit.generation.stopping import Continuation
    from lit_gpt_kit.model.gpt import GPT
    from lit_gpt_kit.tokenization.tokenizer import Tokenizer


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    options = parse(parser, arguments)
    # After the arguments: wrong ones are answered at once, torch takes a second to import.
    import torch

    from lit_gpt_kit.checkpoints.load import load_model
    from lit_gpt_kit.generation.generate import complete
    from lit_gpt_kit.generation.sampling import SamplingConfig

    values = {name: getattr(options, name) for name in vars(options)}
    config = instantiate(SamplingConfig, {**values, "stop": tuple(options.stop or ())})
    prompts = _prompts(options) * options.num_samples
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_model(options.model, dtype, device)
    if options.output is not None:
        _write_json(Path(options.output), prompts, complete(model, tokenizer, prompts, config))
        return 0
    if len(prompts) == 1:
        _stream(model, tokenizer, prompts[0], config)
        return 0
    rows = complete(model, tokenizer, prompts, config)
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True), start=1):
        print(f"--- {number} of {len(prompts)} ---\n{prompt}{row.text}\n")
    return 0


def _parser() -> ArgumentParser:
    parser = build_parser("generate", "Continue a prompt; without --prompt it is read from stdin.")
    parser.add_argument("model", type=str, help="A run folder (its best checkpoint), or a .ckpt.")
    parser.add_argument("--prompt", type=str | None, default=None, help="Text to continue.")
    parser.add_argument(
        "--prompts_file", type=str | None, default=None, help="A file with a prompt a line."
    )
    parser.add_argument(
        "--max_new_tokens", type=int, default=200, help="Longest continuation, in tokens."
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="Below 1 sharpens the distribution; 0 always takes the likeliest token.",
    )
    parser.add_argument(
        "--top_k", type=int | None, default=50, help="Choose among the k likeliest; null for all."
    )
    parser.add_argument(
        "--top_p",
        type=float,
        default=1.0,
        help="Choose among the likeliest tokens that together have this probability.",
    )
    parser.add_argument(
        "--min_p", type=float, default=0.0, help="Drop tokens below this share of the likeliest."
    )
    parser.add_argument(
        "--repetition_penalty", type=float, default=1.0, help="Above 1 avoids what was said."
    )
    parser.add_argument(
        "--stop", type=str, nargs="*", default=[], help="Texts at which to stop; not printed."
    )
    parser.add_argument("--num_samples", type=int, default=1, help="Continuations of each prompt.")
    parser.add_argument(
        "--seed", type=int | None, default=None, help="The same seed gives the same text."
    )
    parser.add_argument(
        "--precision", type=Literal["fp32", "bf16"], default="fp32", help="Of the weights."
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="Write JSON lines here, print no text."
    )
    return parser


def _prompts(options: Any) -> list[str]:
    if options.num_samples < 1:
        raise InputError(f"num_samples={options.num_samples} must be at least 1")
    if options.prompt is not None and options.prompts_file is not None:
        raise InputError("--prompt and --prompts_file are both given; give one")
    if options.prompt is not None:
        return [options.prompt]
    if options.prompts_file is None:
        if sys.stdin.isatty():
            raise InputError("there is no prompt; give --prompt TEXT, or --prompts_file, or a pipe")
        return [_read("stdin", sys.stdin.read).rstrip("\n")]
    path = Path(options.prompts_file)
    if not path.is_file():
        raise MissingFileError(f"--prompts_file {path} does not exist")
    text = _read(f"--prompts_file {path}", lambda: path.read_text(encoding="utf-8"))
    prompts = [line for line in text.splitlines() if line]
    if not prompts:
        raise InputError(f"--prompts_file {path} holds no prompt")
    return prompts


def _read(name: str, read: Callable[[], str]) -> str:
    try:
        return read()
    except UnicodeDecodeError as error:
        offset = error.start
        raise InputError(f"{name} is not UTF-8 text at offset {offset}; convert it") from None


def _stream(model: "GPT", tokenizer: "Tokenizer", prompt: str, config: Any) -> None:
    from lit_gpt_kit.generation.generate import generate_steps

    for number, rows in enumerate(
        generate_steps(model, [tokenizer.encode(prompt)], config, tokenizer)
    ):
        # The prompt comes with the first token: one that is refused is not shown.
        _show((prompt if number == 0 else "") + rows[0].take_text())
    _show("\n")


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _write_json(path: Path, prompts: list[str], rows: "Iterable[Continuation]") -> None:
    lines = [
        json.dumps(
            {
                "prompt": prompt,
                "text": row.text,
                "num_tokens": len(row.ids),
                "finish_reason": row.finish_reason,
            },
            ensure_ascii=False,
        )
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    write_atomically(path, "\n".join(lines) + "\n")
    print(f"{len(lines)} continuations written to {path}")

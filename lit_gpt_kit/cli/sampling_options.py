"""Options of every command that lets a model write: which one, and how it chooses tokens."""

import sys
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from lit_gpt_kit.cli.parsing import instantiate
from lit_gpt_kit.errors import InputError

if TYPE_CHECKING:
    from lit_gpt_kit.generation.sampling import SamplingConfig
    from lit_gpt_kit.model.gpt import GPT
    from lit_gpt_kit.tokenization.tokenizer import Tokenizer


def add_model(parser: ArgumentParser) -> None:
    """Add MODEL."""
    parser.add_argument(
        "model",
        type=str,
        help="A run folder (its best checkpoint), a .ckpt, a Hugging Face folder, a .gguf file, or "
        "the name of a model on the Hugging Face hub, such as gpt2.",
    )


def add_sampling_options(parser: ArgumentParser) -> None:
    """Add the fields of SamplingConfig, and the precision of the weights."""
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
    parser.add_argument(
        "--seed", type=int | None, default=None, help="The same seed gives the same text."
    )
    parser.add_argument(
        "--precision",
        type=Literal["fp32", "bf16", "int8"],
        default="fp32",
        help="Of the weights; int8 keeps the rest in bf16.",
    )
    parser.add_argument(
        "--max_drafts",
        type=int,
        default=0,
        help="Guess so many tokens at a time where a text repeats itself, and check them in one "
        "pass: faster for summaries, corrections and code, and the same text but for rounding.",
    )
    parser.add_argument(
        "--compile",
        type=bool,
        default=False,
        help="Compile the network with torch.compile first; pays for long texts.",
    )


def sampling_config(options: Namespace) -> "SamplingConfig":
    """How tokens are chosen, as the options say.

    Raises:
        InputError: a value is out of range.
    """
    # Here and below, after the arguments: wrong ones are answered at once, torch takes a second.
    from lit_gpt_kit.generation.sampling import SamplingConfig

    values = {name: getattr(options, name) for name in vars(options)}
    config: Any = instantiate(SamplingConfig, {**values, "stop": tuple(options.stop or ())})
    assert isinstance(config, SamplingConfig)
    return config


def load_named_model(options: Namespace) -> "tuple[GPT, Tokenizer]":
    """MODEL in the precision asked for, on the GPU where there is one.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    if options.max_drafts < 0:
        raise InputError(f"max_drafts={options.max_drafts} must be at least 0")
    import torch

    from lit_gpt_kit.checkpoints.load import load_model
    from lit_gpt_kit.checkpoints.locate import is_obvious, locate
    from lit_gpt_kit.model.int8 import quantize_int8

    dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = locate(options.model)
    if not is_obvious(options.model, path):
        print(f"model: {path}", file=sys.stderr)
    model, tokenizer = load_model(options.model, dtype, device)
    if options.precision == "int8":
        quantize_int8(model)
    if options.compile:
        for block in model.blocks:
            block.compile(dynamic=True)
    return model, tokenizer

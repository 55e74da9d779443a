"""`lit-gpt merge`: adapters folded into the weights of their base."""

from typing import Literal

from jsonargparse import ArgumentParser

from lit_gpt_kit.cli.export import DTYPES, describe, name_folder, next_in_transformers
from lit_gpt_kit.cli.parsing import build_parser, parse
from lit_gpt_kit.files import new_folder, says_when_full


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(_parser(), arguments)
    shown, folder = name_folder(options.folder)
    with new_folder(folder) as place, says_when_full(folder):
        import torch

        from lit_gpt_kit.checkpoints.export import write_folder
        from lit_gpt_kit.checkpoints.load import load_adapted
        from lit_gpt_kit.model.lora import merge_lora

        dtype = getattr(torch, DTYPES[options.precision])
        model, tokenizer, origin = load_adapted(options.model, dtype, base=options.base)
        family = write_folder(merge_lora(model), tokenizer, place)
        num_bytes = sum(path.stat().st_size for path in place.iterdir())
    kind = f"{origin.base} with what was learned, {family} architecture"
    print(describe(shown, kind, model.num_parameters(), options.precision, num_bytes))
    print(next_in_transformers(shown))
    return 0


def _parser() -> ArgumentParser:
    parser = build_parser("merge", "Fold adapters (LoRA) into the weights of their base.")
    parser.add_argument(
        "model",
        type=str,
        help="What holds adapters: a run folder (its best checkpoint), a .ckpt, or a folder that "
        "PEFT wrote.",
    )
    parser.add_argument("folder", type=str, help="A folder that is new, or empty.")
    parser.add_argument(
        "--base",
        type=str | None,
        default=None,
        help="The model that was adapted, where it lies elsewhere by now: a Hugging Face folder, a "
        ".gguf file, a run folder, or a name on the Hugging Face hub.",
    )
    parser.add_argument(
        "--precision",
        type=Literal["fp32", "bf16", "fp16"],
        default="fp32",
        help="Of the weights. Folding is done in fp32, and rounded to this once.",
    )
    return parser

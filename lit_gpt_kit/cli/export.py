"""`lit-gpt export`: a model as other programs read it."""

import shlex
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from lit_gpt_kit.cli.parsing import build_parser, parse
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import new_folder, says_when_full

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(_parser(), arguments)
    shown, folder = name_folder(options.folder)
    _check(options.format, options.precision)
    # Before the model is loaded, which may take minutes: it says where nothing can be written.
    with new_folder(folder) as place, says_when_full(folder):
        write = {"huggingface": _write_folder, "onnx": _write_onnx, "peft": _write_peft}
        kind, num_parameters = write[options.format](options, place)
        num_bytes = sum(path.stat().st_size for path in place.iterdir())
    print(describe(shown, kind, num_parameters, options.precision, num_bytes))
    then = {
        "huggingface": next_in_transformers,
        "onnx": _next_in_onnxruntime,
        "peft": _next_in_peft,
    }
    print(then[options.format](shown))
    return 0


def name_folder(folder: str) -> tuple[str, Path]:
    """A new folder as people know it, and where it is.

    Raises:
        InputError: it is the folder one is in.
    """
    shown = str(Path(folder).expanduser())
    path = Path(shown).resolve()
    if path == Path.cwd():  # a folder is renamed into its place, which would leave you nowhere
        raise InputError(f"{shown} is the folder you are in; name a new one")
    return shown, path


def describe(folder: str, kind: str, num_parameters: int, precision: str, num_bytes: int) -> str:
    """What was written, in a line."""
    size = f"{num_bytes / 2**20:,.1f} MiB"
    return f"{folder}: {kind}, {num_parameters:,} parameters in {precision}, {size}"


def next_in_transformers(folder: str) -> str:
    """What to do with a Hugging Face folder."""
    return "\n".join(
        [
            f"next: lit-gpt generate {shlex.quote(folder)} --prompt 'some text'; or in Python:",
            "  from transformers import AutoModelForCausalLM, AutoTokenizer",
            f"  model = AutoModelForCausalLM.from_pretrained({folder!r})",
            f"  tokenizer = AutoTokenizer.from_pretrained({folder!r})",
        ]
    )


def _write_folder(options: Namespace, place: Path) -> tuple[str, int]:
    import torch

    from lit_gpt_kit.checkpoints.export import write_folder
    from lit_gpt_kit.checkpoints.load import load_model

    model, tokenizer = load_model(options.model, getattr(torch, DTYPES[options.precision]))
    family = write_folder(model, tokenizer, place)
    return f"{family} architecture", model.num_parameters()


def _write_onnx(options: Namespace, place: Path) -> tuple[str, int]:
    import torch

    from lit_gpt_kit.checkpoints.load import load_model
    from lit_gpt_kit.checkpoints.onnx import write_onnx

    model, tokenizer = load_model(options.model, getattr(torch, DTYPES[options.precision]))
    write_onnx(model, tokenizer, place)
    return "ONNX graph", model.num_parameters()


def _write_peft(options: Namespace, place: Path) -> tuple[str, int]:
    from lit_gpt_kit.checkpoints.adapters import find_model_type, write_adapters
    from lit_gpt_kit.checkpoints.load import load_adapted

    model, tokenizer, origin = load_adapted(options.model)
    model_type = find_model_type(origin.base, model.config)
    write_adapters(model, tokenizer, place, origin, model_type)
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"LoRA of rank {origin.lora.rank} for {origin.base} ({model_type})", num_trained


def _parser() -> ArgumentParser:
    parser = build_parser("export", "Write a model as other programs read it.")
    parser.add_argument(
        "model",
        type=str,
        help="A run folder (its best checkpoint), a .ckpt, a Hugging Face folder, a .gguf file, a "
        "folder of adapters, or the name of a model on the Hugging Face hub.",
    )
    parser.add_argument("folder", type=str, help="A folder that is new, or empty.")
    parser.add_argument(
        "--format",
        type=Literal["huggingface", "onnx", "peft"],
        default="huggingface",
        help="huggingface: config.json, safetensors and tokenizer, which transformers and every "
        "program built on it load; onnx: a graph from input_ids to logits; peft: the adapters of a "
        "run with LoRA alone, without their base.",
    )
    parser.add_argument(
        "--precision",
        type=Literal["fp32", "bf16", "fp16"],
        default="fp32",
        help="Of the weights. fp32 loses nothing, however they are stored; the others take half "
        "the space.",
    )
    return parser


def _check(format_: str, precision: str) -> None:
    if format_ == "peft" and precision != "fp32":
        raise InputError(f"--precision {precision} is not for adapters, which are kept in fp32")
    if format_ != "onnx":
        return
    if precision == "bf16":
        raise InputError(
            "--precision bf16 is not for ONNX, whose runtime has no matrix product of it on CPUs; "
            "use fp32 or fp16"
        )
    from lit_gpt_kit.checkpoints.onnx import check_installed

    check_installed()


def _next_in_peft(folder: str) -> str:
    return "\n".join(
        [
            f"next: lit-gpt generate {shlex.quote(folder)} --prompt 'some text'; or in Python, on "
            "the base in transformers:",
            "  from peft import PeftModel",
            f"  model = PeftModel.from_pretrained(base, {folder!r})",
        ]
    )


def _next_in_onnxruntime(folder: str) -> str:
    path = str(Path(folder) / "model.onnx")
    return "\n".join(
        [
            "next, in Python, with input_ids of shape (batch, sequence) and type int64:",
            "  import onnxruntime",
            f"  session = onnxruntime.InferenceSession({path!r})",
            '  (logits,) = session.run(["logits"], {"input_ids": input_ids})',
        ]
    )

"""`lit-gpt`: finds the command and imports only what that command needs."""

import sys
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper

from lit_gpt_kit import __version__
from lit_gpt_kit.cli.complaints import another_complained, may_complain
from lit_gpt_kit.errors import InputError, did_you_mean

COMMANDS = {
    "fit": ("train", "train a model"),
    "validate": ("train", "measure a model on its validation text"),
    "test": ("train", "measure a model on its test text"),
    "predict": ("train", "log-probabilities and likeliest next tokens of a text"),
    "plan": ("plan", "whether a run fits, how long it takes and what it costs"),
    "inspect-data": ("inspect_data", "rows as the model gets them, and what is wrong with them"),
    "tune": ("tune", "find a learning rate, or the largest micro-batch that fits"),
    "sweep": ("sweep", "write a W&B sweep over settings of a run"),
    "report": ("report", "runs as one page: curves, samples, what they differ in"),
    "generate": ("generate", "continue a prompt"),
    "chat": ("chat", "talk with a model"),
    "export": ("export", "write a model as transformers, or an ONNX runtime, reads it"),
    "merge": ("merge", "fold adapters (LoRA) into the weights of their base"),
    "tokenizer": ("tokenizer", "train a tokenizer, or look at one"),
    "models": ("models", "which pretrained model to choose"),
}
"""Command -> the module in this room that runs it, and what it does."""

DONE, FAULT, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong input, 1 a fault of ours, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a character shows "?"
            stream.reconfigure(errors="replace")
    wants_traceback = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        sys.exit(_run(arguments))
    except (InputError, PermissionError, NotADirectoryError) as error:
        if wants_traceback:
            raise
        if may_complain():
            # In one piece: lines of several processes would run together.
            sys.stderr.write(f"lit-gpt: {' '.join(str(error).split())}\n")
        sys.exit(WRONG_INPUT)
    except RuntimeError:
        if wants_traceback or not another_complained():
            raise
        sys.exit(WRONG_INPUT)
    except KeyboardInterrupt:
        print("\nlit-gpt: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone (`lit-gpt generate ... | head`).
        sys.stderr.close()
        sys.exit(FAULT)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if arguments[0] in ("-V", "--version"):
        print(f"lit-gpt {__version__}")
        return DONE
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"there is no command '{name}'{did_you_mean(name, COMMANDS)}")
    module = import_module(f"lit_gpt_kit.cli.{COMMANDS[name][0]}")
    run: Callable[[str, list[str]], int] = module.run
    return run(name, rest)


def _help() -> str:
    lines = [f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lit-gpt COMMAND ...",
            "",
            "GPT language models from scratch, on PyTorch Lightning.",
            "",
            *lines,
            "",
            "`lit-gpt COMMAND --help` explains a command. Everywhere: --debug shows the traceback",
            "behind an error. Start with: lit-gpt fit --config configs/quickstart.yaml",
        ]
    )

"""What the commands that write into docs/benchmarks.md can all be told."""

import argparse
import os
from pathlib import Path

import yaml

from lit_gpt_kit.data.download import download
from tests.benchmarks.contestants.assignment import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks.md"
TINY_SHAKESPEARE = REPOSITORY.parent / "shared" / "data" / "tiny_shakespeare" / "input.txt"
NAMES_ITS_ADDRESS = REPOSITORY / "configs" / "shakespeare-char.yaml"
CACHE = Path.home() / ".cache" / "lit_gpt_kit" / "downloads"
WHERE_RESULTS_GO = ("--output", "--write")


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that they share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=existing_file, help="Tiny Shakespeare; fetched by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, metavar="FILE", help="every figure, as JSON")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, metavar="PAGE", help="the page of the tables"
    )
    return parser


def existing_file(name: str) -> str:
    """An absolute path.

    Raises:
        argparse.ArgumentTypeError: there is no such file.
    """
    path = Path(name).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{name} is no file")
    return str(path)


def text_of(options: argparse.Namespace) -> str:
    """The text to train on, downloaded once where it is neither named nor beside the checkout."""
    if options.text is not None:
        return str(options.text)
    if TINY_SHAKESPEARE.exists():
        return str(TINY_SHAKESPEARE)
    config = yaml.safe_load(NAMES_ITS_ADDRESS.read_text(encoding="utf-8"))
    return str(download(config["data"]["init_args"]["sources"][0], CACHE))

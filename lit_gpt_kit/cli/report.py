"""`lit-gpt report`: runs as one page, or their curves as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from lit_gpt_kit.cli.parsing import build_parser, parse
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.report.run import Run, read_runs

MOST_NAMED = 3
"""Runs in a title; more are counted."""
FORMATS = {".html": "html", ".htm": "html", ".png": "png"}


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(_parser(), arguments)
    suffix = Path(options.output or "").suffix.lower()
    if suffix and FORMATS.get(suffix) != options.format:
        other = f"--format {FORMATS[suffix]}, or " if suffix in FORMATS else ""
        raise InputError(
            f"--output {options.output} is no name for --format {options.format}; give {other}a "
            f"name that ends in .{options.format}"
        )
    runs = read_runs([Path(folder) for folder in options.run_dirs])
    try:
        from lit_gpt_kit.report.page import render_page, render_picture
    except ModuleNotFoundError as error:
        raise InputError(
            f"a report is drawn with {error.name}; pip install 'lit-gpt-kit[report]'"
        ) from error

    title = options.title or _name_all(runs)
    output = _choose_output(options.output, runs, options.format)
    is_page = options.format == "html"
    content = render_page(runs, title) if is_page else render_picture(runs, title)
    try:
        write_atomically(output, content)
    except OSError as error:  # somebody else's run folder, an archive
        raise InputError(
            f"{output} cannot be written ({error.strerror}); name another place with --output"
        ) from error
    for one in runs:
        print(_describe(one))
    here = Path.cwd()
    shown = output.relative_to(here) if output.is_relative_to(here) else output
    print(f"written to {shown} ({output.stat().st_size / 2**20:.1f} MiB)")
    print(f"next: open {output.resolve().as_uri()} in a browser")
    return 0


def _choose_output(given: str | None, runs: Sequence[Run], kind: str) -> Path:
    """What a person named; else in the folder of the one run, or here for several."""
    if given is not None:
        return Path(given)
    name = f"report.{kind}"
    return runs[0].folder / name if len(runs) == 1 else Path(name)


def _name_all(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} runs"


def _describe(run: Run) -> str:
    lines = len(run.metrics.rows)
    plural = "" if lines == 1 else "s"
    steps = f"{run.name}: {lines:,} line{plural} of metrics, up to step {run.num_steps:,}"
    broken = run.metrics.num_broken_lines
    if not broken:
        return steps
    return f"{steps}; {broken} that {'is' if broken == 1 else 'are'} not whole left out"


def _parser() -> ArgumentParser:
    parser = build_parser("report", "Runs as one page that opens anywhere, without a network.")
    parser.add_argument(
        "run_dirs",
        type=str,
        nargs="+",
        metavar="RUN_DIR",
        help="Run folders, such as runs/quickstart/latest; several share the charts.",
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="The file to write; report.html in the run folder, or here where there are several.",
    )
    parser.add_argument(
        "--format",
        type=Literal["html", "png"],
        default="html",
        help="A page with everything, or the curves alone as a picture.",
    )
    parser.add_argument(
        "--title",
        type=str | None,
        default=None,
        help="What stands above it; the names of the runs by default.",
    )
    return parser

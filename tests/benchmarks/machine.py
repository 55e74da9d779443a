"""Where and with what something was measured, for the page."""

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("lit-gpt-kit", "torch", "lightning", "transformers", "accelerate")


def processor() -> str:
    """The processor's name, as it says itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that are there."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def conditions(threads: int) -> str:
    """One sentence: date, machine, versions."""
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    today = datetime.now(UTC).date()
    many = "1 thread" if threads == 1 else f"{threads} threads"
    return f"Measured on {today} with {many} on {processor()}: {packages}."


def shown_command(module: str, arguments: Sequence[str], left_out: Sequence[str] = ()) -> str:
    """The command in a block of the page, with the last name of each path alone.

    Args:
        module: what was run.
        arguments: what was typed behind it.
        left_out: options that say only where results go; their values are left out with them.
    """
    words: list[str] = []
    is_left_out = False
    for argument in arguments:
        if argument.startswith("--"):
            is_left_out = argument.partition("=")[0] in left_out
        if not is_left_out:
            name, equals, value = argument.partition("=")
            words.append(name + equals + Path(value).name if equals else short(argument))
    return f"<!-- measured -->\n```bash\n{shlex.join(['python', '-m', module, *words])}\n```"


def short(word: str) -> str:
    """A path's last name; another word as it is."""
    return Path(word).name if os.sep in word and not word.startswith("configs") else word

"""`lit-gpt sweep`: the file of a W&B sweep over a configuration of `fit`."""

import json
import re
import shlex
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lit_gpt_kit.cli.config_errors import one_line
from lit_gpt_kit.cli.dry_run import DryCLI
from lit_gpt_kit.cli.main import DONE
from lit_gpt_kit.cli.parsing import without
from lit_gpt_kit.cli.quiet import quieten_libraries
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.loggers.direction import direction
from lit_gpt_kit.loggers.wandb import PROJECT

OWN = ("vary", "method", "metric", "goal", "runs", "stop_early", "output")
"""Flags that `fit` does not have."""
WRITTEN = "KEY=log:1e-4..1e-2, KEY=0.1..0.5, KEY=1..10 or KEY=a,b,c"
RANGE = re.compile(r"(?P<log>log:)?(?P<low>[^.,:][^,:]*?)\.\.(?P<high>[^,:]+)")
WORDS = {"true": True, "false": False, "null": None}
NAME = re.compile(r"[A-Za-z_][\w.-]*")


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    quieten_libraries()
    SweepCLI(arguments)
    return DONE


class Varied(NamedTuple):
    """What is varied: the flag of `fit`, values to try it with, and what W&B calls the choice."""

    key: str
    samples: list[Any]
    choice: dict[str, Any]


class SweepCLI(DryCLI):
    """`fit` up to where its arguments are known to be right.

    Args:
        arguments: those of `fit`, and what to vary.
    """

    name = "sweep"
    description = (
        "Writes the file of a W&B sweep over a configuration of `lit-gpt fit`, after checking that "
        "`fit` takes what is varied. Says what to type next."
    )

    def __init__(self, arguments: list[str]) -> None:
        self._varied = [read_varied(text) for text in _values_of("vary", arguments)]
        # The parser takes an option once.
        super().__init__(without(arguments, ("vary",)))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what to vary, and how."""
        super().add_arguments_to_parser(parser)
        add: Any = parser.add_argument
        add("--vary", type=str | None, default=None, help=f"Once for each: {WRITTEN}.")
        add(
            "--method",
            type=Literal["bayes", "random", "grid"],
            default="bayes",
            help="How the next values are chosen.",
        )
        add("--metric", type=str, default="val/loss", help="What the best run is best by.")
        add(
            "--goal",
            type=Literal["minimize", "maximize"] | None,
            default=None,
            help="Which way; known for the metrics of this package.",
        )
        add("--runs", type=int | None, default=None, help="End the sweep after so many.")
        add(
            "--stop_early",
            type=int | None,
            default=None,
            help="End runs that are worse than others (Hyperband); first after so many "
            "validations.",
        )
        add("--output", type=str, default="sweep.yaml", help="The file.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, also with the ends of each range and with each value.

        Raises:
            InputError: nothing is varied, or `fit` does not take it.
        """
        super().parse_arguments(parser, args)
        if not self._varied:
            raise InputError(f"--vary is missing; give {WRITTEN}")
        keys = [varied.key for varied in self._varied]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise InputError(f"--vary {twice} is given twice; put all its values into one")
        if "run_dir" in keys or any(word.partition("=")[0] == "--run_dir" for word in args):
            raise InputError("--run_dir is one folder, and each run of a sweep needs its own; "
                             "leave it out")  # fmt: skip
        for varied in self._varied:
            for sample in varied.samples:
                try:
                    parser.parse_args([*args, f"--{varied.key}={sample}"])
                except ArgumentError as error:
                    actions = self._parser(self.command)._actions
                    known = [action.dest for action in actions if action.dest not in OWN]
                    message = one_line(str(error), known)
                    raise InputError(f"--vary {varied.key}={sample}: {message}") from error

    def before_instantiate_classes(self) -> None:
        """Nothing is built."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""

    def _run_subcommand(self, subcommand: str) -> None:
        settings = self.config[self.command]
        path = Path(settings.output)
        if path.exists():
            raise InputError(f"{path} exists; choose another --output, or delete it")
        typed = without(self._arguments, OWN)
        write_atomically(path, yaml.safe_dump(self._sweep(settings, typed), sort_keys=False))
        print(f"written to {path}: {', '.join(v.key for v in self._varied)}")
        print(f"\nnext: wandb sweep {shlex.quote(str(path))}")
        print("then: wandb agent SWEEP_ID    (as it says; here, once for each device)")

    def _sweep(self, settings: Any, typed: list[str]) -> dict[str, Any]:
        goal = settings.goal or _goal(settings.metric)
        sweep: dict[str, Any] = {
            "name": Path(str(settings.config[0])).stem if settings.config else "run",
            "project": PROJECT,
            "program": "lit-gpt",
            "command": ["${env}", "lit-gpt", "fit", *typed, "${args}"],
            "method": settings.method,
            "metric": {"name": settings.metric, "goal": goal},
            "parameters": {varied.key: varied.choice for varied in self._varied},
        }
        ranges = [varied.key for varied in self._varied if "values" not in varied.choice]
        if settings.method == "grid" and ranges:
            raise InputError(
                f"--method grid tries every value, and {ranges[0]} is a range; list its values, or "
                "choose bayes or random"
            )
        for name in ("runs", "stop_early"):
            if settings[name] is not None and settings[name] < 1:
                raise InputError(f"--{name} {settings[name]} must be at least 1")
        if settings.runs is not None:
            sweep["run_cap"] = settings.runs
        if settings.stop_early is not None:
            sweep["early_terminate"] = {"type": "hyperband", "min_iter": settings.stop_early}
        return sweep


def read_varied(text: str) -> Varied:
    """What `--vary` says: a range, of logarithms too, or a list of values.

    Raises:
        InputError: it says neither.
    """
    key, equals, spec = text.partition("=")
    key = key.removeprefix("--")
    if not equals or not spec or NAME.fullmatch(key) is None:
        raise InputError(f"--vary {text}: write {WRITTEN}")
    if key in OWN:
        raise InputError(f"--vary {key}: `fit`, which is varied, has no --{key}")
    found = RANGE.fullmatch(spec)
    if found is None:
        try:
            # Texts alone: YAML makes seconds of 1:00:00, and a text of 1e-3.
            listed = yaml.load(f"[{spec}]", yaml.BaseLoader)
        except yaml.YAMLError:
            listed = []
        if not listed:
            raise InputError(
                f"--vary {text}: no list of values (quote those with commas, brackets or colons); "
                f"write {WRITTEN}"
            )
        values = [_value(value) for value in listed]
        return Varied(key, values, {"values": values})
    try:
        low, high = (_number(found[name]) for name in ("low", "high"))
    except ValueError:
        raise InputError(f"--vary {text}: a range is of two numbers; write {WRITTEN}") from None
    if not low < high:
        raise InputError(f"--vary {text}: {low} must be below {high}")
    kind = "uniform"
    if found["log"]:
        if low <= 0:
            raise InputError(f"--vary {text}: a logarithmic range must begin above 0")
        kind, low, high = "log_uniform_values", float(low), float(high)
    elif isinstance(low, int) and isinstance(high, int):
        kind = "int_uniform"
    else:
        low, high = float(low), float(high)
    return Varied(key, [low, high], {"distribution": kind, "min": low, "max": high})


def _value(value: Any) -> Any:
    """A value such that `fit` understands what the agent types of it, which is Python's text."""
    value = _typed(value)
    if value is None:
        return "null"
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _typed(value: Any) -> Any:
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if isinstance(value, dict):
        return {key: _typed(each) for key, each in value.items()}
    if value in WORDS:
        return WORDS[value]
    try:
        return _number(value)
    except ValueError:
        return value


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _goal(metric: str) -> str:
    pick = direction(metric)
    if pick is None:
        raise InputError(f"--metric {metric}: say which way with --goal minimize or maximize")
    return "minimize" if pick is min else "maximize"


def _values_of(name: str, arguments: Sequence[str]) -> list[str]:
    """What was typed behind each `--name`, with or without an equals sign."""
    flag = f"--{name}"
    values = []
    for word, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == flag:
            values.append(after)
        elif word.startswith(f"{flag}="):
            values.append(word.partition("=")[2])
    return values

"""Arguments of the small commands: jsonargparse, with one line for what is wrong."""

from argparse import ArgumentError
from collections.abc import Collection, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lit_gpt_kit.cli.config_errors import one_line
from lit_gpt_kit.errors import InputError


def build_parser(command: str, description: str) -> ArgumentParser:
    """A parser that raises instead of exiting, and takes no half words for options."""
    return ArgumentParser(
        prog=f"lit-gpt {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The parsed arguments.

    Raises:
        InputError: they are wrong; says how in one line.
    """
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        known = [option for action in parser._actions for option in action.option_strings]
        known = [option.removeprefix("--") for option in known if option.startswith("--")]
        message = one_line(str(error), [o for o in known if o not in ("help", "print_shtab")])
        raise InputError(message) from error


def without(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """What was typed, less the options of these names and their values."""
    flags = {f"--{name}" for name in names}
    kept: list[str] = []
    is_value = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if not is_value and flag not in flags:
            kept.append(argument)
        is_value = not is_value and flag in flags and not equals
    return kept


def instantiate(kind: type, values: dict[str, Any]) -> Any:
    """`kind(**values)`, only with the values that it has fields for."""
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: value for name, value in values.items() if name in fields})

"""The YAML files of a command line, read before the parser reads them: it does not name them."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from lit_gpt_kit.errors import InputError

FLAGS = ("-c", "--config")


def check_config_files(arguments: list[str]) -> None:
    """Refuse a file that is no configuration; one that is missing is the parser's business.

    Raises:
        InputError: a file is not UTF-8, not YAML, or holds no keys.
    """
    for path in _config_files(arguments):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            offset = error.start
            raise InputError(f"{path} is not UTF-8 text at offset {offset}; convert it") from None
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not valid YAML: {_problem(error)}") from None
        if not isinstance(content, dict):
            raise InputError(f"{path} holds no configuration; begin with a line such as 'trainer:'")


def chooses_class(arguments: list[str], key: str) -> bool:
    """Whether a flag or a file says which class `key` (model, data) is of."""
    flags = {argument.partition("=")[0] for argument in arguments}
    if flags & {f"--{key}", f"--{key}.class_path"}:
        return True
    for path in _config_files(arguments):
        try:
            said = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(key)
        except (UnicodeDecodeError, yaml.YAMLError, AttributeError):
            continue  # check_config_files says what is wrong with it
        if isinstance(said, str) or (isinstance(said, dict) and "class_path" in said):
            return True
    return False


def _config_files(arguments: list[str]) -> Iterator[Path]:
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag, _, value = argument.partition("=")
        name = value if flag in FLAGS else argument
        if (flag in FLAGS or before in FLAGS) and Path(name).is_file():
            yield Path(name)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or problem is None:
        return str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"

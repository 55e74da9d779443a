"""Chat templates by name: those that come with this package, and files of anybody's."""

from importlib.resources import files
from pathlib import Path

from lit_gpt_kit.errors import InputError, MissingFileError, did_you_mean

BUILTIN = files("lit_gpt_kit.tokenization") / "templates"
SUFFIX = ".jinja"


def template_names() -> list[str]:
    """The names of the templates that come with this package."""
    return sorted(file.name.removesuffix(SUFFIX) for file in BUILTIN.iterdir())


def find_template(name_or_path: str | Path) -> str:
    """The chat template of that name, or in that .jinja file.

    Raises:
        MissingFileError: there is no such file.
        InputError: there is no such name, or the file is no text.
    """
    name = str(name_or_path)
    if name in template_names():
        return (BUILTIN / f"{name}{SUFFIX}").read_text(encoding="utf-8")
    if not name.endswith(SUFFIX):
        raise InputError(
            f"chat_template={name!r} is neither a {SUFFIX} file nor a template that comes with "
            f"lit_gpt_kit{did_you_mean(name, template_names())}"
        )
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFileError(f"chat template {name} does not exist") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: {error}") from None

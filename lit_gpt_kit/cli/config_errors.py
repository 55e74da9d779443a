"""One line out of the tree of lines that the parser says when a configuration is wrong."""

import inspect
import re
from difflib import get_close_matches
from importlib import import_module

from lit_gpt_kit.errors import did_you_mean

KEY = re.compile(r"Parser key \"([^\"]+)\":?")
CLASS = re.compile(r"class_path[= ]'([\w.]+)'")
NOT_ACCEPTED = re.compile(
    r"(?:Option '(?P<option>[\w.]+)' is not accepted"
    r"|(?:Group|Subcommand) '[\w.]+' does not accept option '(?P<member>[\w.]+)'"
    r"|unrecognized arguments: --(?P<argument>[\w.]+))"
)
NO_ATTRIBUTE = re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'")
NO_MODULE = re.compile(r"No module named '([\w.]+)'")
NOT_A_PATH = re.compile(r"Expected a dot import path string: (\w+)\s*$", re.M)
NULL_GROUP = "argument after ** must be a mapping, not NoneType"
ECHO = re.compile(
    r"(Given value|Subtypes:|Errors:|Does not validate against any|Not a valid subclass of"
    r"|Subclass types expect one of|a class path \(str\)|a dict with)"
)
WRONG_TYPE = re.compile(r"\s*(- )?Expected an? .+?(\. Got .*)?$")
PLAIN_TYPES = frozenset({"int", "float", "bool", "str"})
CLASS_HOMES = (
    "lit_gpt_kit",
    "torch.optim",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
)
"""Where a class that was named without its module may have been meant to be."""


def one_line(message: str, known_keys: list[str]) -> str:
    """The key, the class and the problem, with the nearest valid name where one is near.

    Args:
        message: what the parser said.
        known_keys: the keys of the command itself, such as trainer.max_steps.
    """
    key = ".".join(KEY.findall(message))
    prefix = f"{key}: " if key else ""
    if unknown := NOT_ACCEPTED.search(message):
        return _unknown_key(unknown, message, key, known_keys)
    if missing := NO_ATTRIBUTE.search(message):
        hint = did_you_mean(missing["name"], _public_names(missing["module"]))
        return f"{prefix}there is no class {missing['module']}.{missing['name']}{hint}"
    if module := NO_MODULE.search(message):
        remedy = "install it, or put its folder on PYTHONPATH"
        return f"{prefix}there is no module '{module[1]}'; {remedy}"
    if NULL_GROUP in message:
        return f"{prefix}a group of options is null; give its options, or leave it out"
    problems = [line.strip(" -") for line in message.splitlines() if _says_something(line)]
    text = " ".join(problems)
    for pattern in (KEY, re.compile(r"Problem with given class_path '[\w.]+':")):
        text = pattern.sub("", text)
    return prefix + (_readable(text) or _expected(message))


def _unknown_key(match: re.Match[str], message: str, key: str, known_keys: list[str]) -> str:
    word = match["option"] or match["member"] or match["argument"]
    classes = CLASS.findall(message)
    if not classes:  # a key of the command itself
        return f"unknown key '{word}'{did_you_mean(word, known_keys)}"
    words = word.split(".")
    if match["member"]:
        words = [*re.findall(r"Group '([\w.]+)'", message), *words]
    owner = _innermost_class(match, message, classes)
    parents, last, names = _first_unknown(owner, words)
    place = ".".join([key, *parents]) if key else owner
    accepting = owner if not parents else f"{owner}'s {'.'.join(parents)}"
    hint = did_you_mean(last, names) if names else ""
    return f"{place}: {accepting} has no option '{last}'{hint}"


def _innermost_class(match: re.Match[str], message: str, classes: list[str]) -> str:
    """The class that does not know the option: named just before it, or after it on its line."""
    line_end = message.find("\n", match.end())
    rest_of_line = message[match.end() : line_end if line_end >= 0 else None]
    if after := CLASS.findall(rest_of_line):
        return str(after[0])
    before = CLASS.findall(message[: match.start()])
    return str((before or classes)[-1])


def _first_unknown(owner: str, words: list[str]) -> tuple[list[str], str, list[str]]:
    """The words before the one that is not known, that word, and those that would be."""
    for depth, word in enumerate(words):
        names = _parameters(owner, words[:depth])
        if names and word not in names:
            return words[:depth], word, names
    return words[:-1], words[-1], []


def _parameters(class_path: str, parents: list[str]) -> list[str]:
    """The parameters of a class, or of what one of its parameters is."""
    try:
        module, _, name = class_path.rpartition(".")
        found = getattr(import_module(module), name)
        for parent in parents:
            found = inspect.signature(found).parameters[parent].annotation
        return list(inspect.signature(found).parameters)
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        return []


def _public_names(module: str) -> list[str]:
    return [name for name in dir(import_module(module)) if not name.startswith("_")]


def _says_something(line: str) -> bool:
    stripped = line.strip(" -")
    return bool(stripped) and not (
        ECHO.match(stripped)
        or (WRONG_TYPE.match(line) and "Got value" not in line)
        or (
            stripped.startswith(("Type collections.abc.Callable", "Expected a path"))
            and "expects" not in line
        )
    )


def _expected(message: str) -> str:
    """Nothing fits: what would, by the innermost choice of types, and what was given."""
    before, _, after = message.partition("Given value: ")
    subtypes = before.rpartition("Subtypes: [")[2].partition("]\n")[0]
    kinds = re.findall(r"<class '(?:\w+\.)*(\w+)'>", subtypes)
    name = NOT_A_PATH.search(message)
    if name and not PLAIN_TYPES & set(kinds):
        return _class_without_module(name[1])
    choices = re.findall(r"Literal\[(.+?)\]", subtypes)
    fitting = " or ".join(kind for kind in kinds if kind != "NoneType")
    expected = f"one of {', '.join(choices)}" if choices else fitting or "something else"
    given = after.partition("\n")[0].partition(". Got value: Namespace(")[0]
    return f"expected {expected}, got {given or 'nothing'}"


def _class_without_module(name: str) -> str:
    homes = {
        public: f"{home}.{public}"
        for home in reversed(CLASS_HOMES)
        for public in _public_names(home)
        if public[0].isupper()
    }
    near = get_close_matches(name, homes, n=1, cutoff=0.6)
    hint = f"did you mean '{homes[near[0]]}'?" if near else "name a class with its module"
    return f"'{name}' names no class; {hint}"


def _readable(text: str) -> str:
    text = re.sub(
        r"Type collections\.abc\.Callable\[.+?\] expects a function or a callable class: ", "", text
    )
    text = re.sub(r"\. Got value: Namespace\(.*", "", text)
    text = re.sub(r"typing\.Literal\[([^\]]+)\]", r"one of \1", text)
    text = re.sub(r"Expected an? (one of .+?)\. Got value: (.+)", r"expected \1, got \2", text)
    text = re.sub(
        r"Expected an? <class '([\w.]+)'>\. Got value: (.+)", r"expected \1, got \2", text
    )
    return " ".join(text.split())

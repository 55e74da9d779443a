"""The errors that mean "the input is wrong", as against a fault of this package.

The command line turns an `InputError` into one line and exit status 2; everything else is a fault
and exits with 1. In Python they are a `ValueError` and a `FileNotFoundError`, as one would expect.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A value that a person gave breaks a rule; the message names both and the remedy."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that a person named is not there."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known words as `; did you mean 'a'?`, or all of them where none is near."""
    names = sorted(known)
    longer = [name for name in names if name.startswith(word)]
    near = longer or get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"

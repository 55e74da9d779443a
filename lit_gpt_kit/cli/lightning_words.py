"""What Lightning says of wrong input, in the words of a configuration: the key, and what to do."""

import re
from ast import literal_eval
from collections.abc import Callable

from lightning.pytorch.strategies import StrategyRegistry

from lit_gpt_kit.errors import did_you_mean


def reword(message: str) -> str | None:
    """Our line for one of Lightning's; None where we have none."""
    for pattern, say in WORDS.items():
        if match := re.search(pattern, message, re.S):
            return say(match)
    return None


def comes_from_lightning(error: BaseException) -> bool:
    """Whether Lightning itself refused a setting, as against a fault further down."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals["__name__"].startswith("lightning.")


def _strategy(match: re.Match[str]) -> str:
    known = ["auto", *StrategyRegistry.available_strategies()]
    return (
        f"trainer.strategy={match[1]} is no strategy{did_you_mean(match[1].strip(chr(39)), known)}"
    )


def _accelerator(match: re.Match[str]) -> str:
    known = ["gpu", *match[2].split(", ")]
    hint = did_you_mean(match[1].strip("'"), known)
    return f"trainer.accelerator={match[1]} is no accelerator{hint}"


def _interval(match: re.Match[str]) -> str:
    return (
        f"trainer.val_check_interval={match[1]} is more than the {match[2]} micro-batches of an "
        "epoch; lower it, or set trainer.check_val_every_n_epoch to null, which counts over "
        "epochs' ends"
    )


def _limit(match: re.Match[str]) -> str:
    return (
        f"trainer.{match[2]}={match[1]} must be a share from 0.0 to 1.0, or a number of "
        "micro-batches"
    )


def _monitored(match: re.Match[str]) -> str:
    known = [name for name in literal_eval(match[2]) if name not in ("epoch", "step")]
    return f"ModelCheckpoint: there is no metric {match[1]}{did_you_mean(match[1][1:-1], known)}"


def _stopped(match: re.Match[str]) -> str:
    hint = did_you_mean(match[1], match[2].split("`, `"))
    return f"EarlyStopping: there is no metric '{match[1]}'{hint}"


WORDS: dict[str, Callable[[re.Match[str]], str]] = {
    r"invalid strategy name: `strategy=(.+?)`\.": _strategy,
    r"invalid accelerator name: `accelerator=(.+?)`\. Available names are: (.+?)\.": _accelerator,
    r"`val_check_interval` \((.+?)\) must be less .+? training batches \((\d+)\)": _interval,
    r"passed invalid value (\S+) for (\w+), it has to be in \[0\.0, 1\.0\]": _limit,
    r"`ModelCheckpoint\(monitor=(.+?)\)` could not find .+? metrics: (\[.*?\])\.": _monitored,
    r"conditioned on metric `(.+?)` which is not available.+?following: `(.+)`": _stopped,
}
"""What to look for in a message, and what to say instead."""

"""What the configurations of runs differ in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "-"
CIRCUMSTANCES = ("seed", "seed_everything", "ckpt_path", "run_dir", "cache_dir", "save_dir", "path")
"""Words that say where and how often, not what."""
CIRCUMSTANTIAL_PARTS = ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary")


@dataclass(frozen=True)
class Difference:
    """A key of which not all runs have the same value.

    Attributes:
        key: with dots, from the top of the YAML file.
        values: of each run, as they stand in the file; `-` where a run has none.
        is_circumstance: a seed or a place: what makes no difference that is looked for.
    """

    key: str
    values: Sequence[str]
    is_circumstance: bool


def find_differences(configs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """What differs between resolved configurations, seeds and places last."""
    flat = [dict(_flatten(config)) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    found = []
    for key in keys:
        values = [config.get(key, MISSING) for config in flat]
        if len(set(values)) > 1:
            found.append(Difference(key, values, _is_circumstance(key)))
    return sorted(found, key=lambda difference: difference.is_circumstance)


def _flatten(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        parts = [(f"{key}.{name}" if key else str(name), part) for name, part in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        parts = [(f"{key}.{name}", item) for name, item in _named(value)]
    else:
        return [(key, _show(value))] if key else []
    return [leaf for name, part in parts for leaf in _flatten(part, name)]


def _named(items: Sequence[Any]) -> list[tuple[str, Any]]:
    """The entries of a list by their class, so that their order makes no difference."""
    named: dict[str, Any] = {}
    for number, item in enumerate(items):
        path = item.get("class_path") if isinstance(item, Mapping) else None
        name = str(number) if path is None else str(path).rpartition(".")[2]
        named[name if name not in named else f"{name}.{number}"] = item
    return list(named.items())


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_circumstance(key: str) -> bool:
    parts = key.split(".")
    return parts[-1] in CIRCUMSTANCES or any(part in CIRCUMSTANTIAL_PARTS for part in parts)

"""adapter_config.json: what PEFT says of adapters, and what of it is supported."""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_gpt_kit.checkpoints.huggingface import read_json
from lit_gpt_kit.checkpoints.locate import ADAPTER_CONFIG
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.lora import LoRAConfig
from lit_gpt_kit.patterns import OF_LAYER

PIN_FILE = "lit_gpt_kit.json"
"""Beside PEFT's files, which have no word for it: which weights the adapters belong to."""
SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
}
NUMBERS = ("lora_alpha", "lora_dropout", "r")
CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin (`init_lora_weights`) after which adapters no longer fit the base as it was."""


@dataclass(frozen=True)
class AdapterWords:
    """What an adapter_config.json says.

    Attributes:
        words: all of it.
        name: what errors call the adapters.
        base: the MODEL they belong to, where it says so.
        base_sha256: of its weights, where we wrote the folder.
    """

    words: Mapping[str, Any]
    name: str
    base: str | None
    base_sha256: str | None

    def alpha(self, layer: str) -> float:
        """That of one of their layers."""
        for pattern, alpha in (self.words.get("alpha_pattern") or {}).items():
            try:
                if re.match(rf"(.*\.)?({pattern})$", layer):  # as PEFT matches them
                    return float(alpha)
            except re.error:
                raise InputError(f"{self.name}: {pattern!r} is no pattern of names") from None
        return float(self.words.get("lora_alpha", 8))

    def scaling(self, layer: str, rank: int) -> float:
        """How much B A x counts in one of their layers."""
        return self.alpha(layer) / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def use_rslora(self) -> bool:
        """Scale by the root of the rank."""
        return bool(self.words.get("use_rslora"))

    @property
    def use_dora(self) -> bool:
        """Lengths are trained too."""
        return bool(self.words.get("use_dora"))


def read_words(folder: Path) -> AdapterWords:
    """The words of a folder of adapters.

    Raises:
        MissingFileError: there is no adapter_config.json.
        InputError: it is damaged, or holds what is not supported.
    """
    words = read_json(folder / ADAPTER_CONFIG)
    for word, values in SUPPORTED.items():
        if words.get(word, values[0]) not in values:
            raise InputError(
                f"{folder}: {word}={words[word]!r} of the adapters is not supported; only "
                f"{values[0]!r}"
            )
    begin = words.get("init_lora_weights")
    if isinstance(begin, str) and begin.lower().startswith(CHANGES_THE_BASE):
        raise InputError(
            f"{folder}: init_lora_weights={begin!r} changed the weights of the base in training; "
            "convert the adapters to plain LoRA, as PEFT's documentation of it says"
        )
    _check_types(words, folder)
    pin = read_json(folder / PIN_FILE) if (folder / PIN_FILE).is_file() else {}
    return AdapterWords(
        words, str(folder), words.get("base_model_name_or_path"), pin.get("base_sha256")
    )


def _check_types(words: Mapping[str, Any], folder: Path) -> None:
    for word in NUMBERS:
        _check_number(words.get(word, 0), word, folder)
    for word in ("alpha_pattern", "rank_pattern"):
        patterns = words.get(word) or {}
        if not isinstance(patterns, Mapping):
            raise InputError(f"{folder}: {word}={patterns!r} is no object of patterns and numbers")
        for pattern, value in patterns.items():
            _check_number(value, f"{word}[{pattern!r}]", folder)
    base = words.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise InputError(f"{folder}: base_model_name_or_path={base!r} is no name")


def _check_number(value: Any, word: str, folder: Path) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{folder}: {word}={value!r} is no number")


def write_words(
    folder: Path,
    config: LoRAConfig,
    base: str,
    base_sha256: str,
    num_parts: Mapping[str, int],
    there_are: Collection[str],
    fan_in_fan_out: bool,
) -> None:
    """Write adapter_config.json, and beside it which weights the adapters belong to.

    Args:
        folder: where to.
        config: of the adapters.
        base: the MODEL they belong to.
        base_sha256: of its weights.
        num_parts: their layers that have adapters -> how many of ours lie in them.
        there_are: all of their layers.
        fan_in_fan_out: their matrices are (in, out).
    """
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for number in sorted(set(num_parts.values()) - {1}):
        # As many rows in A as all parts have; what they learned counts as before.
        growth = math.sqrt(number) if config.use_rslora else number
        for name in _short([n for n, parts in num_parts.items() if parts == number], there_are):
            ranks[name], alphas[name] = config.rank * number, config.alpha * growth
    words = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": _short(list(num_parts), there_are),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "inference_mode": True,
    }
    for file, values in ((ADAPTER_CONFIG, words), (PIN_FILE, {"base_sha256": base_sha256})):
        (folder / file).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _short(names: Collection[str], there_are: Collection[str]) -> list[str]:
    """Names without their layer's number, where they are meant in all layers that have them."""
    ends = {name: OF_LAYER.sub("", name, count=1) for name in there_are}
    partial = {end for name, end in ends.items() if name not in names}
    return sorted({name if ends[name] in partial else ends[name] for name in names})

"""AdapterTraining: adapters on a pretrained network, and the network they belong to."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.native import AdapterOrigin
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora, lora_layers


class AdapterTraining:
    """The adapters of a task.

    Args:
        config: their kind.
        base: the MODEL that they adapt.
    """

    def __init__(self, config: LoRAConfig | Mapping[str, Any], base: str) -> None:
        # A checkpoint keeps the configuration as primitives.
        self.config = config if isinstance(config, LoRAConfig) else LoRAConfig(**config)
        path = Path(base).expanduser()
        # The run may be continued, or its adapters used, from another folder.
        self.base = str(path.resolve()) if path.exists() else base

    @cached_property
    def _base_sha256(self) -> str:
        return fingerprint_weights(self.base)

    def origin(self) -> AdapterOrigin:
        """What a checkpoint says of the adapters in it."""
        return AdapterOrigin(self.config, self.base, self._base_sha256)

    def add_to(self, model: GPT, is_bf16: bool) -> None:
        """Freeze the network and add adapters.

        Args:
            model: the network.
            is_bf16: its matrices are multiplied in bfloat16. Frozen ones are then rounded once and
                kept so, which gives the same outputs as rounding them in each step. Not with DoRA,
                which measures the rows of the matrices themselves.
        """
        apply_lora(model, self.config)
        if is_bf16 and not self.config.use_dora:
            for layer in lora_layers(model).values():
                layer.round_base(torch.bfloat16)

    def check(self, saved: AdapterOrigin | None) -> None:
        """Check that a checkpoint's adapters are of this kind, on this network.

        Args:
            saved: what the checkpoint says of them.

        Raises:
            InputError: says what differs.
        """
        if saved is None:
            raise InputError(
                "the checkpoint holds a whole network, no adapters; to adapt it, name it as "
                "model.init_args.pretrained"
            )
        ours, theirs = asdict(self.config), asdict(saved.lora)
        different = [
            f"{name}={ours[name]!r} (checkpoint: {theirs[name]!r})"
            for name in ours
            if ours[name] != theirs[name]
        ]
        if different:
            raise InputError(
                f"the checkpoint's adapters are of another kind: {', '.join(different)}; use the "
                "configuration they were trained with"
            )
        if saved.base_sha256 != self._base_sha256:
            raise InputError(
                f"the checkpoint's adapters belong to {saved.base} (sha256 "
                f"{saved.base_sha256[:12]}), not to pretrained={self.base} "
                f"({self._base_sha256[:12]}); give the model they were trained on"
            )


def adapter_names(model: GPT) -> set[str]:
    """The weights beside those of the base, by name."""
    return {
        f"{layer}.{name}"
        for layer, module in lora_layers(model).items()
        for name, _ in module.named_parameters()
        if not name.startswith("base.")
    }

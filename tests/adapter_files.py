"""Checkpoints that hold what was trained beside a base, and nothing else."""

from pathlib import Path
from typing import Any

import torch

from lit_gpt_kit import GPT, load_model
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.native import NETWORK_PREFIX, AdapterOrigin, describe_into
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora


def save_adapter_checkpoint(path: Path, base: Path, **kind: Any) -> GPT:
    """Adapters on `base`, saved alone; returns the network with them."""
    model, tokenizer = load_model(base)
    config = LoRAConfig(**kind)
    torch.manual_seed(0)
    apply_lora(model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    weights = {
        NETWORK_PREFIX + name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    checkpoint: dict[str, Any] = {"state_dict": weights}
    origin = AdapterOrigin(config, str(base), fingerprint_weights(base))
    describe_into(checkpoint, model.config, tokenizer, origin)
    torch.save(checkpoint, path)
    return model

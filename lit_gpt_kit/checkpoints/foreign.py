"""Other people's checkpoints: their words and tensors into our GPT."""

from collections.abc import Container

import torch

from lit_gpt_kit.checkpoints.families import Family
from lit_gpt_kit.checkpoints.source import TensorSource
from lit_gpt_kit.checkpoints.tensor_map import Slot, is_leftover, map_tensors
from lit_gpt_kit.checkpoints.translation import read_config
from lit_gpt_kit.checkpoints.words import Words
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT

BARE_PREFIXES = ("", "model.", "transformer.", "gpt_neox.")
"""What the names of a checkpoint may lack at their beginning: transformers also saves a network
without its head, and the hub's gpt2 is one."""


def build_model(
    words: Words,
    source: TensorSource,
    name: str,
    dtype: torch.dtype,
    device: torch.device | str,
) -> GPT:
    """The network of a config.json with the weights of `source`, in eval mode.

    Weights are allocated once, in `dtype`, and each tensor goes into its place, some rows at a
    time, so that the peak is little more than the model.

    Args:
        words: the config.json.
        source: the weights.
        name: what errors call the model.
        dtype: of the weights.
        device: where they go.

    Raises:
        InputError: the two do not fit together; names the tensor and both shapes.
    """
    family, config = read_config(words, name)
    largest = max((size for tensor in source.names() for size in source.shape(tensor)), default=0)
    for width in ("embed_dim", "head_width", "num_experts"):
        # The tables of positions are made before tensors are compared, the experts one by one.
        if (getattr(config, width) or 0) > largest:
            raise InputError(
                f"{name}: {width}={getattr(config, width)} is larger than any tensor; config.json "
                "and weights do not belong together"
            )
    with torch.device("meta"):
        model = GPT(config, initialize=False)
    model = model.to(dtype).eval()
    # Before memory is asked for: a lying config.json may ask for any amount.
    check_tensors(map_tensors(family, model), model.config, family, source, name)
    allocate(model, dtype, device)
    load_tensors(model, family, source, dtype)
    return model


def allocate(model: GPT, dtype: torch.dtype, device: torch.device | str) -> None:
    """Give a network that was built on the meta device memory for its weights."""
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=dtype, device=device)
            setattr(module, key, torch.nn.Parameter(empty))
    model.tie_weights()
    model.to(device)  # the tables of positions


def check_tensors(
    slots: dict[str, Slot], config: GPTConfig, family: Family, source: TensorSource, name: str
) -> None:
    """Compare names and shapes, without reading a tensor.

    Raises:
        InputError: a tensor is missing, left over or of another shape.
    """
    prefix = missing_prefix(source.names(), slots)
    missing = dict(slots)
    for theirs in source.names():
        slot = missing.pop(f"{prefix}{theirs}", None)
        if slot is None:
            if is_leftover(family, f"{prefix}{theirs}", config.tie_embeddings):
                continue
            raise InputError(
                f"{name}: tensor {theirs!r} of shape {source.shape(theirs)} has no place in this "
                "network; config.json and weights do not belong together"
            )
        if source.shape(theirs) != slot.shape:
            raise InputError(
                f"{name}: tensor {theirs!r} has shape {source.shape(theirs)}, config.json says "
                f"{slot.shape}"
            )
    if missing:
        first, slot = next(iter(missing.items()))
        others = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{name}: tensor '{first}' of shape {slot.shape} is missing{others}")


@torch.no_grad()
def load_tensors(model: GPT, family: Family, source: TensorSource, dtype: torch.dtype) -> None:
    """Put every tensor that was checked into its place.

    One that the file holds as we do is not copied: the file itself, mapped, is its memory.
    """
    slots = map_tensors(family, model)
    prefix = missing_prefix(source.names(), slots)
    is_on_cpu = model.device.type == "cpu"
    for theirs in source.names():
        slot = slots.get(f"{prefix}{theirs}")
        if slot is None:
            continue
        mapped = source.mapped(theirs, dtype) if slot.is_parameter and is_on_cpu else None
        if mapped is None:
            slot.load(source.pieces(theirs, dtype))
        else:
            slot.parts[0].data = mapped


def missing_prefix(theirs: list[str], ours: Container[str]) -> str:
    """What the file's names lack, judged by how many then have a place."""
    return max(BARE_PREFIXES, key=lambda prefix: sum(prefix + name in ours for name in theirs))

"""Linear layers of another kind than torch's, as a precision plugin of Lightning's asks for them.

While `configure_model` runs, Lightning's BitsandbytesPrecision stands a class of its own in the
place of `torch.nn.Linear`, which keeps its weights in four or eight bits. It quantises what is
loaded into a layer, so that a network is first loaded as it is, and its frozen layers then take
that kind.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.linear import Linear

from lit_gpt_kit.model.gpt import GPT


@contextmanager
def plain_layers() -> Iterator[None]:
    """`torch.nn.Linear` is torch's own within the body."""
    found = nn.Linear
    nn.Linear = Linear  # type: ignore[misc]
    try:
        yield
    finally:
        nn.Linear = found  # type: ignore[misc]


def adopt_linear_kind(model: GPT) -> None:
    """Make the linear layers of the blocks what stands in the place of `torch.nn.Linear` now.

    The head stays as it is, since rounding scores costs most; the other weights take torch's
    default type, which such a plugin sets too. Where torch's own class is in its place, nothing
    happens.

    Args:
        model: a frozen network, changed in place.
    """
    if nn.Linear is Linear:
        return
    model.to(torch.get_default_dtype())
    for module in list(model.blocks.modules()):
        for name, child in module.named_children():
            if type(child) is not Linear:
                continue
            layer = nn.Linear(child.in_features, child.out_features, child.bias is not None)
            layer.load_state_dict(child.state_dict())
            setattr(module, name, layer.requires_grad_(False))

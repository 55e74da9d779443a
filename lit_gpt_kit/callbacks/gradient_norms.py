"""GradientNorms: how long the gradient of each part of the network is."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lit_gpt_kit.steps import step_is_done, step_is_logged

PARTS = {
    "value_embedding": "value embeddings",
    "token_embedding": "token embedding",
    "position_embedding": "positions",
    "token_shift": "token shift",
    "attention": "attention",
    "mlp": "MLP",
    "lm_head": "head",
    "head": "head",
}
"""A module's name -> the part it belongs to, called as `lit-gpt plan` calls it."""
NORMS, OTHER = "norms", "other"
LOGGED = "train/grad_norm/"


class GradientNorms(Callback):
    """Logs `train/grad_norm/<part>` of token_embedding, attention, MLP, norms and so on.

    It is the gradient that `train/grad_norm` is of: of the whole step, over all micro-batches and
    ranks, before clipping, so that the squares of the parts add up to its square. Only the steps
    that the Trainer logs cost anything. Of a LightningModule of another project it is the gradient
    as the optimiser is about to get it, before clipping.

    Args:
        by_layer: of each layer apart, `train/grad_norm/layer_00/attention` and so on.
    """

    def __init__(self, by_layer: bool = False) -> None:
        self.by_layer = by_layer
        self._norms: dict[str, Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure, at the steps that the Trainer logs."""
        self._norms = {}
        if not step_is_logged(trainer, trainer.global_step + 1):
            return
        gradients: dict[str, list[Tensor]] = {}
        for name, weight in pl_module.named_parameters():
            if weight.grad is not None:
                gradients.setdefault(part_of(name, self.by_layer), []).append(weight.grad)
        # A sum over shards waits for the other ranks, so all must be in one order.
        self._norms = {part: _norm(gradients[part]) for part in sorted(gradients)}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forget what was logged: Lightning logs it once more with a last step between two."""
        results: Any = trainer._results
        for key in [key for key in results if LOGGED in key]:
            del results[key]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log."""
        if not self._norms or not step_is_done(trainer, batch_idx):
            return
        total = torch.stack(list(self._norms.values())).square().sum().sqrt()
        # Our tasks divide the gradient by the targets of the step only after this callback.
        exact = getattr(pl_module, "step_gradient_norm", None)
        factor = torch.ones_like(total) if exact is None else exact / total.where(total > 0, 1.0)
        for part, norm in self._norms.items():
            pl_module.log(f"{LOGGED}{part.replace(' ', '_')}", norm * factor)
        self._norms = {}


def part_of(name: str, by_layer: bool = False) -> str:
    """The part of the network that a parameter belongs to, perhaps with its layer."""
    words = name.split(".")
    if any(word.endswith("norm") for word in words):
        part = NORMS
    else:
        part = next((PARTS[key] for key in PARTS if key in words), OTHER)
    layer = words[words.index("blocks") + 1] if by_layer and "blocks" in words else ""
    return f"layer_{int(layer):02d}/{part}" if layer else part


def _norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all together; of shards (DTensor), that of the whole."""
    norm = torch.nn.utils.get_total_norm([gradient.detach() for gradient in gradients])
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole.float()

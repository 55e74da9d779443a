"""EMAWeights: an average of the weights over the latest steps, often better than the last ones."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_gpt_kit.checkpoints.native import TRAINED_WEIGHTS
from lit_gpt_kit.errors import InputError


class EMAWeights(Callback):
    """Keeps an exponential moving average of the weights that are trained.

    After each step: average = d * average + (1 - d) * weights, where d is `decay`, and less in the
    first steps, min(decay, (1 + step) / (10 + step)), so that the initial weights are soon
    forgotten (Polyak and Juditsky 1992; the ramp is TensorFlow's). A step that a task passes over
    (`step_is_taken`), since its loss or gradient was not finite, leaves the average as it is.

    Training is what it would be without. Validation and what it writes, the weights in checkpoints
    and the network after the run are the average; beside it a checkpoint keeps the trained weights,
    from which a run goes on, bit for bit. The average is kept in the weights' own type, which
    should be float32.

    Lightning's EMAWeightAveraging copies the module together with its Trainer and data, saves the
    wrong weights in mid-validation, and cannot go on with adapters.

    Args:
        decay: share of the old average that is kept each step.

    Raises:
        InputError: the decay is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"decay={decay} must be at least 0 and below 1")
        self.decay = decay
        self._weights: dict[str, nn.Parameter] = {}
        self._others: dict[str, Tensor] = {}
        self._shows_average = False
        self._loaded: Mapping[str, Tensor] = {}
        self._last_step = 0

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or from what a checkpoint held.

        Raises:
            InputError: the weights are sharded.
        """
        named = pl_module.named_parameters()
        self._weights = {name: weight for name, weight in named if weight.requires_grad}
        if any(isinstance(weight, DTensor) for weight in self._weights.values()):
            raise InputError(
                "EMAWeights averages whole weights, and this strategy shards them; leave the "
                "callback out, or use strategy=ddp"
            )
        self._others = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._shows_average, self._last_step = False, trainer.global_step
        for name, trained in self._loaded.items():
            if name in self._weights:
                self._weights[name].copy_(trained)
        self._loaded = {}

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the new weights in, once the step is complete."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        decay = min(self.decay, (1 + step) / (10 + step))
        taken: Tensor | None = getattr(pl_module, "step_is_taken", None)
        for name, average in self._others.items():
            # Made on the device, where it is known whether the step was taken: nobody waits.
            share = torch.full((), 1.0 - decay, dtype=average.dtype, device=average.device)
            average.lerp_(self._weights[name], share if taken is None else share * taken)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._exchange()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on with the trained weights."""
        if self._shows_average:
            self._exchange()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the network, now that the last checkpoint is written."""
        self._exchange()
        self._weights, self._others = {}, {}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average where the weights are looked for."""
        if self._shows_average:
            return
        # By identity, since tied weights have two names.
        names = {id(weight): name for name, weight in self._weights.items()}
        for name, weight in pl_module.state_dict(keep_vars=True).items():
            if id(weight) in names and name in checkpoint["state_dict"]:
                checkpoint["state_dict"][name] = self._others[names[id(weight)]]

    def state_dict(self) -> dict[str, Any]:
        """The trained weights."""
        held = self._others if self._shows_average else self._weights
        return {TRAINED_WEIGHTS: {name: weight.detach() for name, weight in held.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the average is read from the network, which holds it then."""
        self._loaded = state_dict[TRAINED_WEIGHTS]

    @torch.no_grad()
    def _exchange(self) -> None:
        """Put the trained weights where the average is and the average where they are, in place."""
        for name, weight in self._weights.items():
            held = weight.clone()
            weight.copy_(self._others[name])
            self._others[name].copy_(held)
        self._shows_average = not self._shows_average

"""What takes a configuration of `fit` and trains nothing: no run folder, no devices, no logs."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI

from lit_gpt_kit.cli.train import TrainingCLI

LEAVES_NOTHING = {
    "callbacks": [],
    "logger": False,
    "enable_checkpointing": False,
    "profiler": None,
    "barebones": False,
}
"""Of a configuration for training: what would leave files, or measure what is no training."""
ONE_DEVICE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "plugins": None}
"""What is there wherever the configuration would train."""
NO_TRAINING = {**LEAVES_NOTHING, **ONE_DEVICE, "accelerator": "cpu", "precision": "32-true"}


class DryCLI(TrainingCLI):
    """`fit` up to where its classes are built; a subclass says what is done with them instead.

    Args:
        arguments: those of `fit`, and the command's own.
    """

    def __init__(self, arguments: list[str]) -> None:
        super().__init__("fit", arguments)

    def before_instantiate_classes(self) -> None:
        """No run folder, and nothing that only training needs."""
        settings = self.config[self.command]
        for name, value in NO_TRAINING.items():
            settings.trainer[name] = value
        self._needs_pretrained = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer that says how many rows make a step."""
        return LightningCLI.instantiate_trainer(self, **kwargs)

    def _forget_run_folder(self) -> None:
        """There is none."""

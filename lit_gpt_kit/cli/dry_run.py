"""What takes a configuration of `fit` and trains nothing: no run folder, no devices, no logs."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI

from lit_gpt_kit.cli.train import TrainingCLI

NO_TRAINING = {
    "accelerator": "cpu",
    "strategy": "auto",
    "devices": 1,
    "num_nodes": 1,
    "precision": "32-true",
    "plugins": None,
    "profiler": None,
    "callbacks": [],
    "logger": False,
    "enable_checkpointing": False,
    "barebones": False,
}
"""Of a configuration for training: what a machine without its devices does not have, and what
would leave files."""


class DryCLI(TrainingCLI):
    """`fit` up to where its classes are built; a subclass says what is done with them instead.

    Args:
        arguments: those of `fit`, and the command's own.

    Attributes:
        name: of the command.
        description: what its help says.
    """

    name = ""
    description = ""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__("fit", arguments)

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """That of `fit`, under the name of this command."""
        super().setup_parser(*args, **kwargs)
        parser = self._parser(self.command)
        parser.prog = f"lit-gpt {self.name}"
        parser.description = self.description

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

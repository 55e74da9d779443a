"""The W&B run of a run folder: online for those who are logged in, offline for all others."""

from pathlib import Path

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

PROJECT = "lit-gpt"


def build_wandb_logger(run_dir: Path, name: str) -> WandbLogger:
    """A logger that never asks a question and never waits for the network.

    Offline, the run lies in `RUN_DIR/wandb/`; `wandb leet RUN_DIR/wandb/latest-run` shows it and
    `wandb sync` uploads it later. The WANDB_* variables, WANDB_MODE among them, work as always.

    Args:
        run_dir: the run folder.
        name: what the run is called.
    """
    import wandb

    _make(run_dir)
    quiet = wandb.Settings(silent=True, console="off")
    mode = wandb.setup(quiet).settings.mode  # what WANDB_MODE says
    if mode == "online" and not wandb.login(prompt=False):
        mode = "offline"
    settings = quiet.model_copy(update={"mode": mode})
    return WandbLogger(name=name, save_dir=str(run_dir), project=PROJECT, settings=settings)


@rank_zero_only
def _make(folder: Path) -> None:
    # W&B writes elsewhere where its folder is missing.
    folder.mkdir(parents=True, exist_ok=True)

"""The W&B run of a run folder: online for those who are logged in, offline for all others."""

from pathlib import Path

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

PROJECT = "lit-gpt"
NETWORK_SECONDS = 10


def build_wandb_logger(run_dir: Path, name: str) -> WandbLogger:
    """A logger that never asks a question, and waits for the network for ten seconds at most.

    Offline, the run lies in `RUN_DIR/wandb/`; `wandb leet RUN_DIR/wandb/latest-run` shows it and
    `wandb sync` uploads it later. So it is where the network or the key fails. WANDB_MODE works as
    always.

    Args:
        run_dir: the run folder.
        name: what the run is called.
    """
    import wandb

    # W&B's service writes from the folder that it was once started in.
    run_dir = run_dir.absolute()
    _make(run_dir)
    quiet = wandb.Settings(silent=True, console="off", init_timeout=NETWORK_SECONDS)
    mode = wandb.setup(quiet).settings.mode  # what WANDB_MODE says

    def build(mode: str) -> WandbLogger:
        settings = quiet.model_copy(update={"mode": mode})
        logger = WandbLogger(name=name, save_dir=str(run_dir), project=PROJECT, settings=settings)
        # W&B warns of it whatever it is, and Lightning gives it always.
        logger._wandb_init.pop("anonymous", None)
        return logger

    if mode != "online":
        return build(mode)
    try:
        if wandb.login(prompt=False):
            logger = build(mode)
            _ = logger.experiment  # connects
            return logger
    except wandb.Error as error:
        print(f"W&B cannot be reached ({type(error).__name__}); the run is kept offline")
    return build("offline")


@rank_zero_only
def _make(folder: Path) -> None:
    # W&B writes elsewhere where its folder is missing.
    folder.mkdir(parents=True, exist_ok=True)

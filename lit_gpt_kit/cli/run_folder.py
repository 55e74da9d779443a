"""The folder of a run: where it lies, what it is called, which checkpoint a command starts from."""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lit_gpt_kit.checkpoints.locate import CHECKPOINTS, find_checkpoint
from lit_gpt_kit.checkpoints.native import LAST_FILE, PREVIOUS_FILE, checkpoints_in
from lit_gpt_kit.errors import InputError, MissingFileError

ROOT = Path("runs")
LATEST = "latest"
LAST, PRETRAINED = "last", "pretrained"
"""What stands for a checkpoint: the last one of a run, and none, the pretrained model as it is."""


def choose_run(
    command: str, name: str, run_dir: str | None, ckpt_path: str | None
) -> tuple[Path, Path | None]:
    """The run folder of a command and the checkpoint it starts from.

    `fit` starts afresh unless told otherwise; the other commands take the best checkpoint of the
    newest run. "last" is the last checkpoint of `run_dir`, or of the newest run, which goes on; so
    it does from another one of its own folder. "pretrained" is none, and the folder a new one.

    Args:
        command: fit, validate, test or predict.
        name: what runs of this configuration are called.
        run_dir: the folder that a person chose.
        ckpt_path: "last", "pretrained", a checkpoint or a run folder.

    Raises:
        MissingFileError: there is no such run or checkpoint.
        InputError: the folder holds a run already, which a new one would write over, or is a file;
            or `fit` is to start from "pretrained".
    """
    chosen = None if run_dir is None else Path(run_dir)
    if chosen is not None and chosen.exists() and not chosen.is_dir():
        raise InputError(f"--run_dir {chosen} is a file; name a folder")
    if ckpt_path == PRETRAINED and command != "fit":
        return chosen or _new_run_dir(name), None
    if ckpt_path == PRETRAINED:
        raise InputError(
            "--ckpt_path pretrained measures a model before it is trained; fit starts from "
            "model.init_args.pretrained anyway, leave --ckpt_path out"
        )
    if ckpt_path is None and command == "fit":
        if chosen is not None and _holds_run(chosen):
            raise InputError(
                f"{chosen} holds a run already; add --ckpt_path last to continue it, or choose "
                "another --run_dir"
            )
        return chosen or _new_run_dir(name), None
    if ckpt_path in (None, LAST):
        if chosen and ckpt_path == LAST and not _holds_run(chosen):
            raise MissingFileError(f"--run_dir {chosen} holds no run to continue")
        started_from = chosen if chosen and _holds_run(chosen) else _latest_run_dir(name)
        checkpoint = _last(started_from) if ckpt_path == LAST else find_checkpoint(started_from)
        return chosen or started_from, checkpoint
    checkpoint = find_checkpoint(Path(ckpt_path))
    if command == "fit" and chosen is not None and _holds_run(chosen):
        # One of its own continues it, as where the last one is damaged.
        is_its_own = checkpoint.resolve().is_relative_to((chosen / CHECKPOINTS).resolve())
        if not is_its_own:
            raise InputError(
                f"{chosen} holds a run already; choose another --run_dir for one that starts from "
                f"{checkpoint}, or continue it with --ckpt_path last"
            )
    return chosen or _new_run_dir(name), checkpoint


def continue_command(run_dir: Path, checkpoint: str | Path = LAST) -> str:
    """What to type to go on with a run."""
    config, folder, start = (
        shlex.quote(str(word)) for word in (run_dir / "config.yaml", run_dir, checkpoint)
    )
    return f"lit-gpt fit --config {config} --run_dir {folder} --ckpt_path {start}"


def run_name(config_files: Sequence[str]) -> str:
    """What runs of this configuration are called: the first file's name.

    A run folder's own config.yaml stands for the configuration that the folder is named after.
    """
    if not config_files:
        return "run"
    first = Path(config_files[0]).resolve()
    if first.name == "config.yaml" and (first.parent / "checkpoints").is_dir():
        return first.parent.parent.name
    return first.stem


def point_latest_to(run_dir: Path) -> None:
    """Make `latest`, beside the run folder, point to it."""
    temporary = run_dir.parent / f".{LATEST}.{os.getpid()}"
    with suppress(OSError):  # some file systems have no links, and no run should fail for that
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run_dir.name)
        temporary.replace(run_dir.parent / LATEST)


def _last(run_dir: Path) -> Path:
    """last.ckpt; where a run was killed as it was replaced, the one before."""
    last = run_dir / CHECKPOINTS / LAST_FILE
    previous = last.with_name(PREVIOUS_FILE)
    return previous if previous.exists() and not last.exists() else find_checkpoint(last)


def _holds_run(run_dir: Path) -> bool:
    return bool(checkpoints_in(run_dir / CHECKPOINTS)) or (run_dir / "metrics.csv").exists()


def _new_run_dir(name: str) -> Path:
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path, again = ROOT / name / time, 1
    while not _claim(path):
        again += 1
        path = ROOT / name / f"{time}-{again}"
    return path


def _claim(path: Path) -> bool:
    """Make the folder, unless somebody else has; only the first rank's counts."""
    if getattr(rank_zero_only, "rank", 0):
        return True
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _latest_run_dir(name: str) -> Path:
    link = ROOT / name / LATEST
    if not link.exists():
        raise MissingFileError(
            f"there is no run to start from: {link} does not exist (from {Path.cwd()}); "
            "name the run with --run_dir, or a checkpoint with --ckpt_path"
        )
    return link.parent / os.readlink(link)

"""Begins and ends a W&B run, so that training neither asks for it, nor waits, nor fails."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lit_gpt_kit.errors import InputError

NETWORK_SECONDS = 4
"""How long a server may take to answer before the run is kept offline."""
FLUSH_SECONDS = 1.0
FINISH_SECONDS_OF_AN_INTERRUPTED = 5
"""Who stops a run, or whose job is stopped, does not wait."""
PATIENCE_SECONDS = 2.0
"""How long the end of a run may take before it is said what it waits for."""


def begin_run(
    run_dir: Path, finish_seconds: int, arguments: Callable[[Any], Mapping[str, Any]]
) -> Any:
    """A W&B run: online for those who are logged in, offline for others and without an answer.

    Args:
        run_dir: in whose folder `wandb` it lies.
        finish_seconds: how long its end may take where the network is slow, or gone.
        arguments: of `wandb.init`, from the settings that W&B was told.

    Raises:
        InputError: W&B refuses one of those settings.
    """
    import wandb

    # W&B writes elsewhere where its folder is missing.
    run_dir.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "init_timeout": NETWORK_SECONDS,
        "finish_timeout": finish_seconds,
        "finish_timeout_raises": True,
        "x_transaction_log_flush_interval": FLUSH_SECONDS,
    }
    known = wandb.Settings.model_fields  # a newer version may have dropped what is experimental
    quiet = wandb.Settings(**{name: v for name, v in wanted.items() if name in known})
    said = _what_wandb_was_told(quiet)
    given = {"dir": str(run_dir), **arguments(said)}
    mode: str = said.mode
    if mode == "online":
        try:
            if wandb.login(prompt=False, verify=False):
                return _without_questions(wandb.init(**given, settings=_in_mode(quiet, mode)))
        except Exception as error:  # whatever it is, training goes on
            what = _in_a_line(error)
            rank_zero_warn(f"W&B cannot be reached ({what}); the run is kept offline")
            # Its service holds the id of the run that failed, and refuses it a second time.
            _end_service()
            wandb.setup(quiet)
        mode = "offline"
    try:
        return wandb.init(**given, settings=_in_mode(quiet, mode))
    except Exception as error:
        rank_zero_warn(f"no W&B run ({_in_a_line(error)}); metrics.csv has it all")
        return no_run()


def no_run(lost: Any = None) -> Any:
    """A run that takes everything and keeps nothing.

    Args:
        lost: the run that it replaces.
    """
    import wandb

    if lost is not None and lost is wandb.run:
        _end_service()  # which would complain, or wait, when the process ends
    return wandb.init(mode="disabled", reinit="create_new")


def finish_run(run: Any, exit_status: int = 0) -> bool:
    """End a run, and say what that waits for where it takes long.

    Args:
        run: of W&B.
        exit_status: other than 0, and W&B calls the run failed.

    Returns:
        Whether all of it was written, and where the run is online, uploaded.
    """
    import wandb

    seconds = run.settings.finish_timeout
    if exit_status and seconds and not run.offline:
        seconds = min(seconds, FINISH_SECONDS_OF_AN_INTERRUPTED)
    is_whole = threading.Event()
    ending = threading.Thread(target=_finish, args=(run, exit_status, is_whole), daemon=True)
    ending.start()
    try:
        ending.join(PATIENCE_SECONDS)
        if ending.is_alive():
            limit = f", for {seconds:g} seconds at most" if seconds else ""
            doing = "writing the W&B run" if run.offline else "uploading to W&B"
            print(f"{doing}{limit} ...", flush=True)
            ending.join(seconds - PATIENCE_SECONDS if seconds else None)
    finally:
        if not is_whole.is_set():
            _end_service()
            ending.join(PATIENCE_SECONDS)  # it clears `wandb.run`
            if wandb.run is run:  # or waits still; the next run is another one
                wandb.run = None
    return is_whole.is_set()


def _finish(run: Any, exit_status: int, is_whole: threading.Event) -> None:
    with suppress(Exception):  # it took too long, or the service is no more
        run.finish(exit_status)
        is_whole.set()


def _end_service() -> None:
    # W&B's own limit does not hold while an artifact waits for the network, and the end of the
    # process would wait for its service without any. What it has is in the run's file by now.
    import wandb

    connection = getattr(wandb.setup(), "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
    with suppress(Exception, SystemExit):  # W&B exits as its service did
        wandb.teardown()


def _in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _in_mode(settings: Any, mode: str) -> Any:
    return settings.model_copy(update={"mode": mode})


def _without_questions(run: Any) -> Any:
    # At each table and checkpoint W&B asks the server whether a thing of its name has another type,
    # and waits for the answer, a long time where the network is gone. Ours have the run's id.
    if hasattr(run, "_assert_can_log_artifact"):
        run._assert_can_log_artifact = lambda artifact: None
    # At the first of them it asks whether the login is good; now is when that can be waited for.
    if hasattr(run, "_public_api"):
        run._public_api()
    return run


def _what_wandb_was_told(quiet: Any) -> Any:
    """W&B's settings by the environment and its own files.

    Raises:
        InputError: it refuses one of them.
    """
    import wandb
    from pydantic import ValidationError

    try:
        return wandb.setup(quiet).settings
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"W&B refuses its setting {name}: {first['msg']}; mend WANDB_{name.upper()}, or train "
            "without W&B by --trainer.logger=false"
        ) from error

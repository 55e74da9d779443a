"""The command `lit-gpt`, run inside this process or in one of its own."""

import io
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lit_gpt_kit.cli.main import main
from tests.warm.python import warm_python

EXECUTABLE = Path(sys.executable).with_name("lit-gpt")
TEXT = "the quick brown fox jumps over the lazy dog and runs away from it\n"
CONFIG = """\
seed_everything: 0
trainer:
  accelerator: cpu
  max_steps: 6
  log_every_n_steps: 1
  val_check_interval: 3
  check_val_every_n_epoch: null
model:
  class_path: lit_gpt_kit.LanguageModeling
  init_args:
    gpt: {num_layers: 2, num_heads: 2, embed_dim: 16, block_size: 16}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
    lr_schedule: {class_path: lit_gpt_kit.WarmupCosine, init_args: {warmup_steps: 2}}
data:
  class_path: lit_gpt_kit.TextDataModule
  init_args: {sources: [input.txt], tokenizer: {kind: byte}, batch_size: 4}
"""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: Any
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr of a command that was refused, progress lines aside."""
        lines = [line for line in self.err.splitlines() if not line.startswith("tokenising ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("lit-gpt: "), self.err
        assert self.status == 2, self.err
        return lines[0].removeprefix("lit-gpt: ")


def write_project(folder: Path) -> Path:
    """A folder with tiny.yaml and input.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "input.txt").write_text(TEXT * 40)
    return folder


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """The environment of somebody who is logged in nowhere and has no cache."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    own = {
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        # To look through all fonts anew would take seconds.
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib")),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return {**kept, **own, **changes}


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on two threads, and far slower where others use the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, *arguments: str, stdin: str = "") -> Result:
    """Run the command in this process, in `folder`, with no terminal."""
    out, err = io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        one_thread(),
        mock.patch.dict(os.environ, environment(folder), clear=True),
        mock.patch("sys.stdin", io.StringIO(stdin)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        _finish_wandb()  # what another test began
        _forget_wandb_mode()
        try:
            main(list(arguments))
        except SystemExit as exit_:
            status = exit_.code
        finally:
            _finish_wandb()
    return Result(status, out.getvalue(), err.getvalue())


def start(folder: Path, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """Start the installed command in a process of its own, in `folder`.

    It starts warm unless `cold`, for a test whose subject is the process that a person starts.
    """
    changes = options.pop("env", {})
    python = [] if options.pop("cold", False) else [warm_python()]
    settings: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    return subprocess.Popen(
        [*python, str(EXECUTABLE), *arguments],
        cwd=folder,
        env=environment(folder, **changes),
        **{**settings, **options},
    )


def run_process(folder: Path, *arguments: str, **options: Any) -> Result:
    """Run the installed command in a process of its own, in `folder`, with no terminal."""
    process = start(folder, *arguments, start_new_session=True, **options)
    watchdog = threading.Timer(120, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    out, err = process.communicate()
    watchdog.cancel()
    return Result(process.returncode, out, err)


def run_in_terminal(folder: Path, *arguments: str, **env: str) -> tuple[int, list[bytes]]:
    """Run the installed command in a terminal; its exit status and what it wrote, as it came."""
    controller, terminal = pty.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    process = start(folder, *arguments, env={"TERM": "xterm", **env}, **streams)
    os.close(terminal)
    chunks: list[bytes] = []
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    with suppress(OSError):  # how Linux says that the other side is closed
        while chunk := os.read(controller, 4096):
            chunks.append(chunk)
    os.close(controller)
    status = process.wait()
    watchdog.cancel()
    return status, chunks


def _forget_wandb_mode() -> None:
    # W&B reads WANDB_MODE once in a process; another test may have set it.
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.setup().settings.mode != os.environ.get("WANDB_MODE", "online"):
        wandb.teardown()


def _finish_wandb() -> None:
    # A process that trains once ends its W&B run by ending.
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish()

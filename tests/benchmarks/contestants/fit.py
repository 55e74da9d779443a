"""`lit-gpt fit` as a person runs it: in a terminal, with progress bar, metrics.csv and W&B log.

Its speed is its own count, less the first steps. Where the loss is compared it is told
`configs/shakespeare-char.yaml`, whose network is its own, with the seconds as `max_time`.
"""

import csv
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.benchmarks.contestants.assignment import REPOSITORY, Assignment, Size, answer
from tests.benchmarks.contestants.terminal import run_in_terminal

CONFIGS = REPOSITORY / "configs"
RUN = "run"


def lit_gpt(folder: Path, threads: int, text: str, *arguments: str) -> Iterator[bytes]:
    """A command of `lit-gpt` on this text, with everything that it writes below `folder`."""
    command = [str(Path(sys.executable).with_name("lit-gpt")), *arguments]
    command += [f"--data.sources=[{text}]", f"--data.cache_dir={folder}/cache"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(REPOSITORY),
        "WANDB_MODE": "offline",
    }
    return run_in_terminal(command, folder, environment)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of the run's metrics.csv so far."""
    text = (folder / RUN / "metrics.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def watch(threads: int, text: str, *options: str) -> dict[str, Any]:
    """`lit-gpt fit` with these options, and when it came to which loss.

    Returns:
        `wall_seconds` from Enter to the end, the last `loss`, and `losses`: pairs of seconds since
        Enter and loss, one for each validation.
    """
    losses: list[tuple[float, float]] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder, last_change = Path(name), 0.0
        metrics = folder / RUN / "metrics.csv"
        for _ in lit_gpt(folder, threads, text, "fit", f"--run_dir={RUN}", *options):
            change = metrics.stat().st_mtime if metrics.exists() else 0.0
            if change == last_change:
                continue
            last_change = change
            losses += new_losses(folder, len(losses), time.perf_counter() - start)
        wall_seconds = time.perf_counter() - start
        losses += new_losses(folder, len(losses), wall_seconds)
    loss = losses[-1][1] if losses else None
    return {"wall_seconds": wall_seconds, "loss": loss, "losses": losses}


def new_losses(folder: Path, num_known: int, seconds: float) -> list[tuple[float, float]]:
    """The validation losses behind those that are known, as of now."""
    found = [float(row["val/loss"]) for row in read_metrics(folder) if row.get("val/loss")]
    return [(seconds, loss) for loss in found[num_known:]]


def speed(assignment: Assignment, shape: Size, *options: str) -> dict[str, Any]:
    """Tokens a second of GPT-2 in this shape with nanoGPT's recipe; with further options."""
    warm_up = assignment.warm_up
    names = ("num_layers", "num_heads", "embed_dim", "block_size", "vocab_size")
    arguments = [
        "fit", f"--config={CONFIGS / 'shakespeare-char-nanogpt.yaml'}", f"--run_dir={RUN}",
        f"--data.batch_size={shape.batch_size}",
        "--trainer.precision=bf16-mixed", "--trainer.limit_val_batches=0",
        f"--trainer.log_every_n_steps={warm_up}",
        f"--trainer.max_steps={warm_up + assignment.steps}", "--model.optimizer.fused=true",
        *(f"--model.gpt.{name}={getattr(shape, name)}" for name in names), *options,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for _ in lit_gpt(Path(folder), assignment.threads, assignment.text, *arguments):
            pass
        rows = read_metrics(Path(folder))
    # All rows but the first count equally many steps.
    rate = statistics.harmonic_mean([float(row["train/tokens_per_second"]) for row in rows[1:]])
    return {"tokens_per_second": rate, "steps": int(rows[-1]["step"])}


def learning(assignment: Assignment) -> dict[str, Any]:
    """The loss of the best recipe after the seconds."""
    assert assignment.seconds is not None
    config = f"--config={CONFIGS / 'shakespeare-char.yaml'}"
    text, threads = assignment.text, assignment.threads
    training = [
        "fit", config, f"--run_dir={RUN}", "--trainer.accelerator=cpu", "--trainer.max_steps=-1",
        f"--trainer.max_time={duration(assignment.seconds)}", "--trainer.limit_val_batches=0",
        "--trainer.log_every_n_steps=1",
    ]  # fmt: skip
    validating = [
        "validate", config, "--run_dir=validated", "--trainer.accelerator=cpu",
        f"--ckpt_path={RUN}/checkpoints/last.ckpt",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for arguments in (training, validating):
            for _ in lit_gpt(folder, threads, text, *arguments):
                pass
        loss = json.loads((folder / "validated" / "validate.json").read_text())["val/loss"]
        rows = read_metrics(folder)
    return {
        "tokens_per_second": statistics.median(
            float(row["train/tokens_per_second"]) for row in rows
        ),
        "steps": int(rows[-1]["step"]),
        "loss": loss,
    }


def duration(seconds: float) -> str:
    """As Lightning writes it: days, hours, minutes, seconds."""
    whole = timedelta(seconds=round(seconds))
    hours, rest = divmod(whole.seconds, 3600)
    return f"{whole.days:02}:{hours:02}:{rest // 60:02}:{rest % 60:02}"


def fit(assignment: Assignment) -> dict[str, Any]:
    if assignment.seconds:
        result = learning(assignment)
    else:
        result = speed(assignment, assignment.shape, "--trainer.accelerator=cpu")
    # This process is far smaller than the one that it started.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {**result, "peak_bytes": peak}


if __name__ == "__main__":
    answer(fit)

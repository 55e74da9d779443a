"""What a run gets where its configuration chose nothing: callbacks and loggers."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy

from lit_gpt_kit.callbacks.classification_metrics import ClassificationMetrics
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.callbacks.loss_spikes import LossSpikes
from lit_gpt_kit.callbacks.prediction_writer import PredictionWriter
from lit_gpt_kit.callbacks.sample_text import SampleText
from lit_gpt_kit.callbacks.throughput import Throughput
from lit_gpt_kit.checkpoints.sealed_io import SealedCheckpointIO
from lit_gpt_kit.cli.interrupt import StopOnInterrupt
from lit_gpt_kit.cli.narrator import Narrator
from lit_gpt_kit.cli.progress import ProgressLines, StepBar
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.loggers.metrics_csv import MetricsCSV
from lit_gpt_kit.loggers.wandb import WandbRun
from lit_gpt_kit.tasks.classification import SequenceClassification
from lit_gpt_kit.tasks.language_modeling import LanguageModeling


def complete_callbacks(
    given: Sequence[Callback],
    command: str,
    run_dir: Path,
    module: LightningModule,
    silent: bool,
    saves: bool = True,
) -> list[Callback]:
    """The configured callbacks, and behind them those that nothing configured stands for.

    Args:
        given: the configured ones.
        command: fit, validate, test or predict.
        run_dir: the run folder.
        module: tells by `monitor` and `monitor_mode` which metric makes a checkpoint the best.
        silent: show no progress.
        saves: keep checkpoints; without them nothing stops a run so that it can go on.
    """
    # Throughput comes before the progress that shows its number.
    wanted: list[Callback] = [Throughput()] if command == "fit" else []
    if not silent:
        wanted.append(progress())
    if command == "predict":
        wanted.append(PredictionWriter(run_dir / "predictions.jsonl"))
    elif isinstance(module, SequenceClassification):
        wanted.append(ClassificationMetrics())
    if command == "fit":
        if isinstance(module, LanguageModeling):
            wanted.append(SampleText())
        wanted += [Narrator(run_dir), LossSpikes(run_dir)]
    if command == "fit" and saves:
        last = next((c for c in given if isinstance(c, LastCheckpoint)), None)
        last = last or LastCheckpoint()
        last.folder = last.folder or run_dir / "checkpoints"
        # The best checkpoint comes before the last one, which holds its score.
        given = [callback for callback in given if callback is not last]
        wanted += [*_best_checkpoint(run_dir, module), last, StopOnInterrupt(last)]
    return [*given, *(callback for callback in wanted if not _stands_in(given, callback))]


def progress() -> ProgressBar:
    """A bar in a terminal, lines elsewhere."""
    return StepBar() if sys.stdout.isatty() else ProgressLines()


def complete_loggers(configured: Any, run_dir: Path) -> list[Logger] | bool:
    """metrics.csv always, and the W&B run unless other loggers are configured.

    Args:
        configured: the Trainer's `logger`: None and True mean the default, False none at all.
        run_dir: the run folder.

    Raises:
        InputError: the run folder would have two W&B runs.
    """
    if configured is False:
        return False
    if configured in (None, True):
        return [MetricsCSV(run_dir), WandbRun()]
    given = configured if isinstance(configured, list) else [configured]
    if sum(isinstance(logger, WandbRun) for logger in given) > 1:
        raise InputError("trainer.logger has WandbRun twice; a run folder is one W&B run, keep one")
    return [MetricsCSV(run_dir), *given]


def seal_checkpoints(trainer: Trainer) -> None:
    """Have the checkpoints sealed, unless the configuration says what writes them.

    So they are where a plugin only wraps Lightning's own, and strategies that have a way of their
    own keep it.
    """
    strategy: Any = trainer.strategy
    chosen = strategy._checkpoint_io
    if isinstance(chosen, _WrappingCheckpointIO) and chosen.checkpoint_io is None:
        chosen.checkpoint_io = SealedCheckpointIO()
    elif chosen is None and type(strategy).checkpoint_io is Strategy.checkpoint_io:
        strategy.checkpoint_io = SealedCheckpointIO()


def _best_checkpoint(run_dir: Path, module: LightningModule) -> list[Callback]:
    monitor = getattr(module, "monitor", None)
    if monitor is None:
        return []
    checkpoint = ModelCheckpoint(
        dirpath=run_dir / "checkpoints",
        filename="best",
        monitor=monitor,
        mode=getattr(module, "monitor_mode", "min"),
        save_top_k=1,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    return [checkpoint]


def _stands_in(given: Sequence[Callback], wanted: Callback) -> bool:
    """Whether a configured callback does the work of a default one."""
    kind = ProgressBar if isinstance(wanted, ProgressBar) else type(wanted)
    return any(isinstance(callback, kind) for callback in given)

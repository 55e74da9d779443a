"""ClassificationMetrics: accuracy, F1, AUROC and more of any classifier, and pictures of them."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MetricCollection

from lit_gpt_kit.callbacks.classification_outputs import read_outputs
from lit_gpt_kit.callbacks.classification_scores import (
    build_scores,
    compute_scores,
    count_rows,
    named_numbers,
    update_scores,
)
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import write_atomically

PIXELS_PER_INCH = 120
MOST_NAMED = 5


class ClassificationMetrics(Callback):
    """Scores a LightningModule whose validation_step and test_step return logits and labels.

    The step returns a dict. The kind of classification follows from the shapes:

    - one label a row: `logits` (batch, classes), `labels` (batch);
    - yes or no: `logits` (batch) or (batch, 1), `labels` (batch);
    - several labels a row: both (batch, classes), labels 0 or 1.

    A row labelled -100 does not count. Logs over all ranks, with `val/` or `test/` before the name:

    - `accuracy`: the share of rows that are right; of several labels, that are right altogether.
    - `f1`: the mean of all classes' F1; and `f1_<label>` of each, with up to 50 classes.
    - `auroc`, `average_precision`: of the second class where there are two, else the mean over the
      classes, each against the others. Classes of which there are no rows are left out, and where
      nothing is left there is no number: a warning says so.
    - `calibration_error`: how far confidence is from accuracy.

    Memory does not grow with the rows. Nothing of this is in the LightningModule's state or in its
    checkpoints. A strategy that repeats rows to even out the ranks lets them count twice.

    Args:
        label_names: of the classes, in order; else the LightningModule's `label_names`, else
            numbers.
        folder: the run folder; pictures go to `plots` in it, each validation's over the last's. By
            default the Trainer's `default_root_dir`.
        plots: draw ROC, precision-recall, confusion and calibration after each validation and
            test; they go to the run folder, and to W&B where a WandbLogger is.
    """

    def __init__(
        self,
        label_names: Sequence[str] | None = None,
        folder: str | None = None,
        plots: bool = True,
    ) -> None:
        self.label_names = label_names
        self.folder = folder
        self.plots = plots
        self._kind = (0, False)  # number of classes; whether a row may have several labels
        self._scores: MetricCollection | None = None
        self._said: set[str] = set()

    # ---- Lightning's hooks ----

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the validation before."""
        self._begin("validation", trainer.num_val_batches)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the test before."""
        self._begin("test", trainer.num_test_batches)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch."""
        self._update(pl_module, outputs, "validation_step")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch."""
        self._update(pl_module, outputs, "test_step")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores of the whole split, and draw them."""
        if not trainer.sanity_checking:
            self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores of the whole split, and draw them."""
        self._finish(trainer, pl_module, "test")

    # ---- counting ----

    def _begin(self, stage: str, num_batches: Sequence[float]) -> None:
        if len(num_batches) > 1:
            raise InputError(
                f"ClassificationMetrics scores one {stage} dataloader, and there are "
                f"{len(num_batches)}; give one, or score each in a run of its own"
            )
        # Made anew: what is counted under inference_mode cannot be changed outside it.
        self._kind, self._scores = (0, False), None

    def _update(self, pl_module: LightningModule, outputs: Any, step: str) -> None:
        rows = read_outputs(outputs, step)
        kind = (rows.num_classes, rows.is_multilabel)
        if self._scores is None:
            self._kind, self._scores = kind, build_scores(*kind).to(rows.labels.device)
            self._names(pl_module)  # wrong ones are told of before anything is trained
        if kind != self._kind:
            raise InputError(
                f"{step} returned {_describe(*kind)} after {_describe(*self._kind)}; every batch "
                "must have the same classes"
            )
        update_scores(self._scores, rows)

    def _compute(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
        """The scores over all ranks; nothing where no rank has seen a row."""
        kind = torch.tensor(self._kind, device=pl_module.device)
        # A rank may have had no batch, and must take part in the sums all the same.
        num_classes, is_multilabel = trainer.strategy.reduce(kind, reduce_op="max").tolist()
        if not num_classes:
            return {}
        if self._scores is None:
            self._kind = (num_classes, bool(is_multilabel))
            self._scores = build_scores(*self._kind).to(pl_module.device)
        results = compute_scores(self._scores)
        return results if count_rows(results) else {}

    # ---- telling ----

    def _finish(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        results = self._compute(trainer, pl_module)
        if not results:
            self._say_once(f"no {split} metrics: no row has a label")
            return
        names = self._names(pl_module)
        if not results["num_undefined"]:
            self._say_what_is_missing(split, results, names)
        numbers = {f"{split}/{name}": value for name, value in named_numbers(results, names)}
        # Alike on all ranks already; without sync_dist Lightning doubts it, a line a metric.
        pl_module.log_dict(numbers, sync_dist=True)
        is_trial = getattr(trainer, "fast_dev_run", False)  # which writes nothing
        if self.plots and trainer.is_global_zero and not is_trial and not results["num_undefined"]:
            self._draw(trainer, split, results, names)

    def _names(self, pl_module: LightningModule) -> list[str]:
        num_classes, _ = self._kind
        for owner, given in (
            ("label_names", self.label_names),
            (f"{type(pl_module).__name__}.label_names", getattr(pl_module, "label_names", None)),
        ):
            if given is not None and len(given) == 1 and num_classes == 2:
                # One label, which a row has or has not.
                return [f"not {given[0]}", str(given[0])]
            if given is not None and len(given) != num_classes:
                raise InputError(
                    f"{owner} has {len(given)} names, and the logits have {num_classes} classes; "
                    "give ClassificationMetrics one label name a class, in order"
                )
            if given is not None:
                return [str(name) for name in given]
        return [str(number) for number in range(num_classes)]

    def _say_what_is_missing(
        self, split: str, results: dict[str, Tensor], names: list[str]
    ) -> None:
        areas = results["auroc"]
        names = names[-len(areas) :]  # of two exclusive classes, the second has the curve
        missing = [name for name, area in zip(names, areas, strict=True) if area.isnan()]
        numbers = f"{split}/auroc and {split}/average_precision"
        if len(missing) == len(areas):
            _, is_multilabel = self._kind
            what = "labels that all or none of them have" if is_multilabel else "one class"
            self._say_once(f"no {numbers}: the rows of {split} have only {what}")
        elif missing:
            some = ", ".join(missing[:MOST_NAMED]) + (", ..." if missing[MOST_NAMED:] else "")
            self._say_once(
                f"{numbers} leave out {len(missing)} of {len(areas)} classes, which none of the "
                f"rows has, or all have: {some}"
            )

    def _draw(
        self, trainer: Trainer, split: str, results: dict[str, Tensor], names: list[str]
    ) -> None:
        try:
            from lit_gpt_kit.callbacks.classification_plots import draw_all
        except ModuleNotFoundError as error:
            if error.name != "matplotlib":
                raise
            self._say_once(
                "no pictures of the classification: matplotlib is not installed; "
                "pip install 'lit-gpt-kit[plot]', or give ClassificationMetrics plots=False"
            )
            return
        # As of the metrics, which Lightning counts from the steps before this one.
        step = max(trainer.global_step - 1, 0)
        title = f"{split}, step {trainer.global_step:,}, {count_rows(results):,} rows"
        arrays = {name: value.numpy() for name, value in results.items()}
        folder = Path(self.folder or trainer.default_root_dir) / "plots"
        for name, figure in draw_all(arrays, names, title).items():
            image = io.BytesIO()
            with warnings.catch_warnings():
                # A label's letters may not be in the font; it would say so of each, each time.
                warnings.filterwarnings("ignore", message="Glyph")
                figure.savefig(image, format="png", dpi=PIXELS_PER_INCH)
            path = folder / f"{split}_{name}.png"
            write_atomically(path, image.getvalue())
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"{split}/{name}", [str(path)], step=step)

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            rank_zero_warn(line)


def _describe(num_classes: int, is_multilabel: bool) -> str:
    return f"{num_classes} classes, {'several labels' if is_multilabel else 'one label'} a row"

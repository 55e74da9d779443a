"""LossSpikes: steps whose loss lies far above its level, and which rows they read."""

import csv
import math
from collections import deque
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.steps import step_is_done, step_is_logged

COLUMNS = ("step", "loss", "level", "grad_norm", "rows")
FEWEST_LOSSES = 20
"""Of fewer nobody knows what is usual."""
SIGMA_OF_MAD = 1.4826
"""Of normal numbers, their standard deviation by the median distance from their median."""
LEAST_SPREAD = 0.01
"""Share of the level below which no loss is far away, however smooth the curve."""


class LossSpikes(Callback):
    """Writes a line into `RUN_DIR/spikes.csv` for each step whose loss is far above the usual.

    The usual is the median of the last losses, and far is counted in their spread (the median
    distance from it), which a spike does not move. A loss or gradient
    that is not finite is a spike too. The
    line has the step, its loss, the level, the gradient's norm before clipping, and the numbers of
    the rows it read: `rows_of_step` of the data module. Looks at losses when the Trainer logs, so
    that the host never waits for the device for it. What is usual is part of a checkpoint, so that
    a run that goes on writes what one that never stopped would have written.

    Args:
        folder: where spikes.csv goes; the Trainer's default_root_dir by default.
        threshold: how many spreads (standard deviations, were losses normal) are far.
        window: how many losses tell what is usual.
    """

    def __init__(
        self, folder: str | Path | None = None, threshold: float = 6.0, window: int = 100
    ) -> None:
        self.folder = folder
        self.threshold = threshold
        self._losses: deque[float] = deque(maxlen=window)
        self._seen: list[tuple[int, Tensor]] = []
        self._fetched: list[tuple[int, float, float]] = []
        self._rows: list[dict[str, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run; what a checkpoint holds comes after this."""
        self._seen, self._fetched, self._rows = [], [], []
        self._losses.clear()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the lines of a run that goes on, less those of steps that it looks at again."""
        first_again = min([step for step, _, _ in self._fetched], default=trainer.global_step + 1)
        path = self._path(trainer)
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self._rows = [row for row in rows if int(row["step"]) < first_again]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the step's loss; look at all that were kept where the Trainer logs."""
        loss, norm = (
            getattr(pl_module, f"step_{name}", None) for name in ("loss", "gradient_norm")
        )
        if loss is None or norm is None or not step_is_done(trainer, batch_idx):
            return  # somebody's own kind of step
        self._seen.append((trainer.global_step, torch.stack([loss, norm.to(loss)])))
        if step_is_logged(trainer, trainer.global_step):
            self._look(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last ones."""
        self._look(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Look at the last ones: they may be why."""
        self._look(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The last losses, and the steps that were not looked at yet."""
        self._fetch()
        return {"losses": list(self._losses), "fetched": list(self._fetched)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from them."""
        self._losses.extend(state_dict["losses"])
        self._fetched = [(step, loss, norm) for step, loss, norm in state_dict["fetched"]]

    def _fetch(self) -> None:
        """Wait for the values of the steps that were seen."""
        if self._seen:
            steps = [step for step, _ in self._seen]
            values = torch.stack([pair for _, pair in self._seen]).tolist()
            self._fetched += [
                (step, loss, norm) for step, (loss, norm) in zip(steps, values, strict=True)
            ]
            self._seen = []

    def _look(self, trainer: Trainer) -> None:
        self._fetch()
        steps, self._fetched = self._fetched, []
        if not trainer.is_global_zero:
            return
        spikes = []
        for step, loss, norm in steps:
            level, highest = usual(self._losses, self.threshold)
            if not math.isfinite(loss + norm) or loss > highest:
                spikes.append(step)
                self._rows.append(self._row(trainer, step, loss, level, norm))
                if math.isfinite(loss + norm):  # of others, the task says that it passes over them
                    rank_zero_warn(
                        f"step {step}: loss {loss:.4f} is far above its level {level:.4f} "
                        f"(gradient norm {norm:.3g}); its rows are in {self._path(trainer)}"
                    )
            if math.isfinite(loss):
                self._losses.append(loss)
        is_trial = getattr(trainer, "fast_dev_run", False)  # which writes nothing
        if spikes and not is_trial:
            text = StringIO(newline="")
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
            write_atomically(self._path(trainer), text.getvalue())

    def _row(
        self, trainer: Trainer, step: int, loss: float, level: float, norm: float
    ) -> dict[str, str]:
        find: Any = getattr(getattr(trainer, "datamodule", None), "rows_of_step", None)
        rows = [] if find is None else find(step - 1)
        numbers = (f"{loss:.7g}", f"{level:.7g}", f"{norm:.7g}")
        return dict(zip(COLUMNS, (str(step), *numbers, " ".join(map(str, rows))), strict=True))

    def _path(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir) / "spikes.csv"


def usual(losses: Sequence[float], threshold: float) -> tuple[float, float]:
    """The level of some losses, and the highest loss that is still usual.

    Args:
        losses: the last ones.
        threshold: how many standard deviations above the level are usual.

    Returns:
        Their median, NaN of none; and infinity where they are too few to tell.
    """
    if not losses:
        return math.nan, math.inf
    level = median(losses)
    if len(losses) < FEWEST_LOSSES:
        return level, math.inf
    spread = SIGMA_OF_MAD * median(abs(loss - level) for loss in losses)
    return level, level + threshold * max(spread, LEAST_SPREAD * abs(level))

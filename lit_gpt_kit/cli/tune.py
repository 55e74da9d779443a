"""`lit-gpt tune`: a learning rate, or the largest micro-batch, for a configuration of `fit`."""

import csv
import io
import shlex
from io import StringIO
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from lit_gpt_kit.callbacks.rate_sweep import RateSweep, smooth, suggest_factors
from lit_gpt_kit.cli.defaults import progress
from lit_gpt_kit.cli.dry_run import LEAVES_NOTHING
from lit_gpt_kit.cli.parsing import without
from lit_gpt_kit.cli.quiet import quieten_libraries
from lit_gpt_kit.cli.train import TrainingCLI
from lit_gpt_kit.cli.tune_batch import find_largest, restrict_to_one_device
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import write_atomically

OWN = ("find", "lowest", "highest", "num_steps", "memory", "longest_step")
"""Flags that `fit` does not have."""
NO_TRAINING = {
    **LEAVES_NOTHING,
    "max_epochs": -1,
    "max_time": None,
    "min_steps": None,
    "min_epochs": None,
    "limit_train_batches": None,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "fast_dev_run": False,
}
"""What would end a trial early, measure in it, or leave files."""
PIXELS_PER_INCH = 110


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    quieten_libraries()
    return TuningCLI(arguments).exit_status


class TuningCLI(TrainingCLI):
    """`fit` for a few steps that leave nothing behind but what they tell.

    Args:
        arguments: those of `fit`, and what to find.
    """

    name = "tune"
    description = (
        "Finds a learning rate, or the largest micro-batch that fits the memory, for a "
        "configuration of `lit-gpt fit`. Says what to run next."
    )

    def __init__(self, arguments: list[str]) -> None:
        super().__init__("fit", arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what to find, and how."""
        super().add_arguments_to_parser(parser)
        add: Any = parser.add_argument
        add("--find", type=Literal["lr", "batch_size"] | None, default=None, help="What to find.")
        add("--lowest", type=float, default=1e-3, help="lr: the first factor of the rates.")
        add("--highest", type=float, default=100.0, help="lr: the last factor of the rates.")
        add("--num_steps", type=int, default=100, help="lr: steps from one to the other.")
        add(
            "--memory",
            type=str | None,
            default=None,
            help="batch_size: what may be used, such as 16GiB; by default nine tenths of what is "
            "free.",
        )
        add(
            "--longest_step",
            type=float,
            default=30.0,
            help="batch_size: seconds; larger micro-batches than one that takes longer are not "
            "tried.",
        )

    def before_instantiate_classes(self) -> None:
        """Choose the folder, and leave out what only a run needs."""
        settings = self.config[self.command]
        if settings.find is None:
            raise InputError("--find is missing; give --find lr or --find batch_size")
        if settings.ckpt_path is not None:
            raise InputError("--ckpt_path: tuning starts from the beginning; leave it out")
        # Refused before anything is built.
        self.sweep = RateSweep(settings.lowest, settings.highest, settings.num_steps)
        super().before_instantiate_classes()
        for name, value in NO_TRAINING.items():
            settings.trainer[name] = value
        if settings.find == "lr":
            settings.trainer.max_steps = settings.num_steps + 1
            init = settings.model.get("init_args", {})
            if "lr_schedule" in init:
                init["lr_schedule"] = None
        else:
            restrict_to_one_device(settings)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer that sweeps the rates and shows how far it is."""
        settings = self.config[self.command]
        silent = settings.trainer.enable_progress_bar is False
        callbacks: list[Callback] = [self.sweep, *([] if silent else [progress()])]
        return LightningCLI.instantiate_trainer(
            self,
            callbacks=callbacks if settings.find == "lr" else [],
            default_root_dir=str(self.run_dir),
            **kwargs,
        )

    def _begin_run_folder(self) -> None:
        """A trial is no run."""

    def _run_subcommand(self, subcommand: str) -> None:
        if self.config[self.command].find == "lr":
            super()._run_subcommand(subcommand)
            return
        try:
            self._find_batch_size()
        finally:
            self._forget_run_folder()

    def _find_batch_size(self) -> None:
        settings = self.config[self.command]
        typed = without(self._arguments, OWN)
        found = find_largest(self, typed, settings.memory, settings.longest_step)
        self._say_next(found.flags)

    @rank_zero_only
    def _say_how_to_continue(self) -> None:
        print("\ninterrupted; nothing is changed")

    @rank_zero_only
    def _say_where_results_are(self) -> None:
        points = self.sweep.points
        factors = suggest_factors(points)
        table = self.run_dir / "lr_find.csv"
        write_atomically(table, self._table())
        print(f"\nwritten to {table}{self._draw(factors)}")
        if factors is None:
            raise InputError(
                "the loss falls nowhere between "
                f"--lowest {self.sweep.factors[0]:g} and --highest {self.sweep.factors[-1]:g} "
                "times the configured rates; widen the range, or look at the data"
            )
        flags: list[str] = []
        for what, factor in zip(("is lowest", "falls fastest"), reversed(factors), strict=True):
            rates = {n: round_to(rate * factor) for n, rate in self._configured_rates().items()}
            shown = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
            print(f"the loss {what:>13} at {factor:8.3g} x the configured rates: {shown}")
            flags = [f"--model.optimizer.{name}={rate:g}" for name, rate in rates.items()]
        print("good rates lie between the two; the lower is the safe one")
        self._say_next(flags)

    def _table(self) -> str:
        text = StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        names = self._configured_rates()
        writer.writerow(["factor", *names, "loss", "smoothed_loss"])
        points = self.sweep.points
        for point, smoothed in zip(points, smooth([p.loss for p in points]), strict=True):
            rates = [rate * point.factor for rate in names.values()]
            numbers = [point.factor, *rates, point.loss, smoothed]
            writer.writerow([f"{number:.7g}" for number in numbers])
        return text.getvalue()

    def _draw(self, factors: tuple[float, float] | None) -> str:
        try:
            from lit_gpt_kit.callbacks.rate_sweep_plot import draw_sweep
        except ModuleNotFoundError as error:
            if error.name != "matplotlib":
                raise
            return " (no picture: matplotlib is not installed; pip install 'lit-gpt-kit[plot]')"
        image = io.BytesIO()
        figure = draw_sweep(self.sweep.points, factors, f"learning rate: {self.run_name}")
        figure.savefig(image, format="png", dpi=PIXELS_PER_INCH)
        path = self.run_dir / "plots" / "lr_find.png"
        write_atomically(path, image.getvalue())
        return f" and {path}"

    def _configured_rates(self) -> dict[str, float]:
        """What the optimiser's arguments call its rates, and how high they are."""
        optimizer = self._get(self.config, "model").get("init_args", {}).get("optimizer")
        arguments = dict(getattr(optimizer, "init_args", None) or {})
        return {
            name: float(value)
            for name, value in arguments.items()
            if (name == "lr" or name.endswith("_lr")) and value is not None
        } or {"lr": self.sweep.rates[0]}

    def _say_next(self, flags: list[str]) -> None:
        replaced = [flag.partition("=")[0].removeprefix("--") for flag in flags]
        typed = without(self._arguments, (*OWN, "run_dir", *replaced))
        print(f"\nnext: {shlex.join(['lit-gpt', 'fit', *typed, *flags])}")


def round_to(value: float, digits: int = 2) -> float:
    """The nearest number of so many digits: a suggestion is no more exact."""
    return float(f"{value:.{digits}g}")

"""`lit-gpt fit | validate | test | predict`: LightningCLI, with a run folder around it."""

import json
import shutil
from argparse import ArgumentError
from contextlib import suppress
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, ModelSummary, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_gpt_kit.callbacks.prediction_writer import PredictionWriter
from lit_gpt_kit.checkpoints.locate import CHECKPOINTS, is_obvious
from lit_gpt_kit.checkpoints.native import (
    KEY,
    LAST_FILE,
    DamagedCheckpointError,
    Description,
    read_description,
    read_outline,
)
from lit_gpt_kit.checkpoints.sharded_io import FolderReader
from lit_gpt_kit.cli.allocator import keep_freed_memory
from lit_gpt_kit.cli.config_errors import one_line
from lit_gpt_kit.cli.config_files import check_config_files, chooses_class
from lit_gpt_kit.cli.defaults import complete_callbacks, complete_loggers, seal_checkpoints
from lit_gpt_kit.cli.interrupt import gives_ctrl_c_back, status_of_interrupted
from lit_gpt_kit.cli.launched import ends_with_its_ranks
from lit_gpt_kit.cli.lightning_words import comes_from_lightning, reword
from lit_gpt_kit.cli.main import FAULT
from lit_gpt_kit.cli.model_table import PartsTable
from lit_gpt_kit.cli.narrator import Narrator
from lit_gpt_kit.cli.precision import PrecisionTrainer, choose_precision, chooses_precision
from lit_gpt_kit.cli.quiet import quieten_libraries
from lit_gpt_kit.cli.run_folder import (
    PRETRAINED,
    ROOT,
    choose_run,
    continue_command,
    point_latest_to,
    run_name,
)
from lit_gpt_kit.cli.run_record import RunRecord, go_on_with_metrics
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import write_atomically
from lit_gpt_kit.loggers.wandb_connection import finish_run
from lit_gpt_kit.parallel.check import check_strategy
from lit_gpt_kit.ranks import shares_model

PLACES = ("config", "run_dir", "ckpt_path", "weights_only", "output", "return_predictions")
"""Keys of a command that say where, not what: a repeated run chooses its own."""
LENGTHS = ("total_steps", "total_tokens", "total_seconds")
"""Arguments of a schedule that end a run."""
DEFAULT_CLASSES = {"model": "lit_gpt_kit.LanguageModeling", "data": "lit_gpt_kit.TextDataModule"}
CHECKPOINT_HELP = {
    "fit": "Go on from `last`, the run's last checkpoint, or from a checkpoint or run folder.",
    "else": "A checkpoint, a run folder (its best one) or `last`; by default the best of the "
    "newest run. `pretrained` is none: the pretrained model as it is, before training.",
}


# config.yaml has all defaults, and Lightning's may be Enums: Timer's interval is one.
yaml.SafeDumper.add_multi_representer(
    Enum, lambda dumper, member: dumper.represent_data(member.value)
)


def run(command: str, arguments: list[str]) -> int:
    """Run one of the four Trainer commands; returns the exit status."""
    quieten_libraries()
    return TrainingCLI(command, arguments).exit_status


class ExactParser(LightningArgumentParser):
    """Lightning's parser, which would take --trainer.max_step for --trainer.max_steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})


class TrainingCLI(LightningCLI):
    """LightningCLI with one command, a run folder, and one line for what is wrong.

    Args:
        command: fit, validate, test or predict.
        arguments: the command line after it.

    Attributes:
        exit_status: 0, or where a signal stopped the run 128 and its number: 130 for Ctrl-C.
        name: of another command that takes the arguments of this one.
        description: what its help says.
    """

    name = description = ""

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command = command
        self._arguments = arguments
        self._description: Description | None = None
        self._precision = ""
        self.exit_status = 0
        parser_kwargs = {"exit_on_error": False}
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            trainer_class=PrecisionTrainer,
            seed_everything_default=0,
            trainer_defaults={"enable_model_summary": False, "log_every_n_steps": 10},
            parser_kwargs={**parser_kwargs, "prog": "lit-gpt", command: dict(parser_kwargs)},
            parser_class=ExactParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=[command, *arguments],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the command that was typed: building a parser takes most of the start-up."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, and the classes that most people want as defaults."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Where the run goes; runs/<config file's name>/<UTC time> by default.",
        )
        if self.command == "predict":
            parser.add_argument(
                "--output",
                type=str | None,
                default=None,
                help="Where predictions go, .jsonl or .csv; RUN_DIR/predictions.jsonl by default.",
            )
        for key, class_path in DEFAULT_CLASSES.items():
            # The parser would keep the default values of a default class for another one.
            if not chooses_class(self._arguments, key):
                parser.set_defaults({key: {"class_path": class_path}})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, or say in one line what is wrong."""
        check_config_files(args)
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            known = [action.dest for action in self._parser(self.command)._actions]
            raise InputError(one_line(str(error), known)) from error
        if self.config[self.command].trainer is None:
            raise InputError("trainer holds nothing; give it arguments, or leave it out")

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, with what --ckpt_path means here."""
        super().setup_parser(*args, **kwargs)
        parser = self._parser(self.command)
        if self.name:
            parser.prog, parser.description = f"lit-gpt {self.name}", self.description
        choice = next(action for action in parser._actions if action.dest == "ckpt_path")
        choice.help = CHECKPOINT_HELP.get(self.command, CHECKPOINT_HELP["else"])

    def _parse_ckpt_path(self) -> None:
        """Nothing: a flag that a person typed wins over what a checkpoint remembers."""

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and the checkpoint to start from."""
        settings = self.config[self.command]
        self.run_name = run_name([str(path) for path in settings.config or []])
        self._needs_pretrained = settings.ckpt_path == PRETRAINED
        self.run_dir, checkpoint = choose_run(
            self.command, self.run_name, settings.run_dir, settings.ckpt_path
        )
        self._says_checkpoint = checkpoint is not None and not (
            settings.ckpt_path and is_obvious(settings.ckpt_path, checkpoint)
        )
        self._run_dir_is_new = not self.run_dir.exists() or not any(self.run_dir.iterdir())
        settings.ckpt_path = None if checkpoint is None else str(checkpoint)
        settings.weights_only = True
        if settings.trainer.precision == "auto":
            # The run folder's config.yaml holds the choice, so that it repeats the run anywhere.
            self._choose_precision(settings.trainer)
        if _ends_by_its_schedule(settings):
            settings.trainer.max_epochs = -1  # Lightning would end it after 1000
        if self.command == "predict":
            settings.return_predictions = False  # they are written; nobody is there to take them
        step = 0 if checkpoint is None else self._check(checkpoint)
        name = f"{self.run_name}/{self.run_dir.name}"
        self.record = RunRecord(self.run_dir, name, checkpoint, step)

    def _choose_precision(self, trainer: Any) -> None:
        strategy = getattr(trainer.strategy, "init_args", {})
        if chooses_precision([*_as_list(trainer.plugins), strategy.get("precision_plugin")]):
            trainer.precision, self._precision = None, "that of the plugin"
            return
        trainer.precision, reason = choose_precision(trainer.accelerator)
        self._precision = f"{trainer.precision}, {reason}"

    def _check(self, checkpoint: Path) -> int:
        """Read what a checkpoint says of itself; returns its step."""
        try:
            content = read_outline(checkpoint)
            if KEY in content:  # a LightningModule of another project need not have it
                self._description = read_description(content, str(checkpoint))
            return int(content.get("global_step", 0))
        except DamagedCheckpointError as error:
            self._forget_run_folder()
            if self.command != "fit" or error.other is None:
                raise
            command = continue_command(checkpoint.parent.parent, error.other)
            raise InputError(f"{error}; to continue from it: {command}") from error
        except InputError:
            self._forget_run_folder()
            raise

    def instantiate_classes(self) -> None:
        """Build model, data module and Trainer, or say in one line what is wrong."""
        try:
            super().instantiate_classes()
        except InputError:
            self._forget_run_folder()
            raise
        except (ValueError, ModuleNotFoundError, MisconfigurationException) as error:
            # The parser makes one ValueError of whatever a constructor raises.
            self._forget_run_folder()
            raise InputError(reword(str(error)) or one_line(str(error), [])) from error
        if self._needs_pretrained and getattr(self.model, "pretrained", None) is None:
            self._forget_run_folder()
            raise InputError("--ckpt_path pretrained: set model.init_args.pretrained, the model")
        try:
            check_strategy(self.trainer, self.model)
        except InputError:
            self._forget_run_folder()
            raise
        if not shares_model(self.trainer):
            self.trainer.strategy.checkpoint_io = FolderReader(self.trainer.strategy.checkpoint_io)
        if self._description is not None and hasattr(self.model, "start_from"):
            self.model.start_from(self._description)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The configured Trainer, with what a run folder needs wherever nothing else was chosen."""
        chosen = self._get(self.config_init, "trainer")
        given = _as_list(chosen.callbacks)
        if chosen.enable_model_summary and self.command == "fit":
            given = [*given, *([] if _has_summary(given) else [PartsTable()])]
        if self.command == "predict" and self.config[self.command].output is not None:
            given = [*given, PredictionWriter(self.config[self.command].output)]
        silent = chosen.enable_progress_bar is False
        saves = chosen.enable_checkpointing is not False
        logger: Any = False
        if self.command == "fit" and not chosen.fast_dev_run:
            logger = complete_loggers(chosen.logger, self.run_dir)
            self.record.place_loggers(logger, self.model, self.config_text)
        given = complete_callbacks(given, self.command, self.run_dir, self.model, silent, saves)
        # The run begins when nobody has refused it, and before it is said where it lies.
        others, narrators = ([c for c in given if isinstance(c, Narrator) is is_one]
                             for is_one in (False, True))  # fmt: skip
        begin = LambdaCallback(on_fit_start=lambda trainer, module: self._begin_run_folder())
        go_on = LambdaCallback(on_train_start=lambda trainer, module: go_on_with_metrics(trainer))
        trainer = super().instantiate_trainer(
            default_root_dir=chosen.default_root_dir or str(self.run_dir),
            callbacks=[go_on, *others, begin, *narrators],
            logger=logger,
            **kwargs,
        )
        # The others log the last step, and so have to know by then that it is.
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.sort(key=lambda callback: not isinstance(callback, Timer))
        seal_checkpoints(trainer)
        return trainer

    @cached_property
    def config_text(self) -> str:
        """The resolved configuration, less where things go."""
        config = self.config[self.command].clone()
        for key in PLACES:
            config.pop(key, None)
        parser = self._parser(self.command)
        return str(parser.dump(config, skip_unset=False, skip_validation=True))

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; Lightning makes a SystemExit of an interruption."""
        if self._precision and self.trainer.is_global_zero:
            print(f"precision: {self._precision}")
        if self.command != "fit":
            if self._says_checkpoint and self.trainer.is_global_zero:
                print(f"checkpoint: {self.config[self.command].ckpt_path}")
            self._begin_run_folder()
        elif self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        try:
            with (
                ends_with_its_ranks(self.trainer.strategy.launcher),
                gives_ctrl_c_back(self.trainer),
            ):
                super()._run_subcommand(subcommand)
        except SystemExit:
            if not self.trainer.interrupted:
                raise
            self.exit_status = status_of_interrupted(self.trainer)
            self._say_how_to_continue()
            self._forget_run_folder()
            self.record.end(self.trainer, self.exit_status)
            return
        except Exception as error:
            self._forget_run_folder()
            self.record.end(self.trainer, FAULT)
            if not isinstance(error, (ValueError, MisconfigurationException, RuntimeError)):
                raise
            known = comes_from_lightning(error) and reword(str(error))
            if known:
                raise InputError(known) from error
            if isinstance(error, RuntimeError):
                raise
            if isinstance(error, InputError) or comes_from_lightning(error):
                raise InputError(str(error)) from error
            raise
        if self._get(self.config, "trainer").fast_dev_run:
            self._forget_run_folder()
            return
        self._say_where_results_are()
        self.record.end(self.trainer)

    @rank_zero_only
    def _begin_run_folder(self) -> None:
        if self._get(self.config, "trainer").fast_dev_run:
            return  # a trial writes nothing
        (self.run_dir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        if self.command == "fit" or not (self.run_dir / "config.yaml").exists():
            write_atomically(self.run_dir / "config.yaml", self.config_text)
        if self.command == "fit":
            point_latest_to(self.run_dir)
            self.record.begin(self.trainer, self.model, self.config_text)

    @rank_zero_only
    def _forget_run_folder(self) -> None:
        """Leave nothing of a run that never began, but all of a folder that was there before."""
        # What is measured has a config.yaml before it is known that all is well.
        signs = ["config.yaml"] if self.command == "fit" else ["*.json*", "*.csv", "plots"]
        began = any(any(self.run_dir.glob(sign)) for sign in signs)
        if not self._run_dir_is_new or began:
            return
        for logger in self.trainer.loggers if hasattr(self, "trainer") else ():
            if isinstance(logger, WandbLogger) and logger._experiment is not None:
                finish_run(logger.experiment)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if self.run_dir.is_relative_to(ROOT):
            for folder in list(self.run_dir.parents)[:2]:
                with suppress(OSError):  # other runs are in it
                    folder.rmdir()

    @rank_zero_only
    def _say_how_to_continue(self) -> None:
        if (self.run_dir / CHECKPOINTS / LAST_FILE).exists():
            print(f"\ninterrupted after step {self.trainer.global_step}; to continue:")
            print(f"  {continue_command(self.run_dir)}")
        else:
            print("\ninterrupted before anything was saved")

    @rank_zero_only
    def _say_where_results_are(self) -> None:
        if self.command in ("validate", "test"):
            metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            path = self.run_dir / f"{self.command}.json"
            write_atomically(path, json.dumps(metrics, indent=2) + "\n")
            for name, value in sorted(metrics.items()):
                print(f"{name:>20}: {value:.4f}")
            print(f"written to {path}")
        if self.command == "predict":
            callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
            for writer in (c for c in callbacks if isinstance(c, PredictionWriter)):
                if not writer.num_rows:
                    raise InputError("there is nothing to predict; name it as predict_sources")
                files = ", ".join(map(str, writer.paths))
                in_first = " in the first" if len(writer.paths) > 1 else ""
                print(f"written to {files}, {writer.num_rows:,} rows{in_first}")


def _ends_by_its_schedule(settings: Any) -> bool:
    """Whether it is the schedule alone that says how long a run is."""
    trainer, arguments = settings.trainer, settings.model.get("init_args") or {}
    is_open = (trainer.max_steps, trainer.max_epochs, trainer.max_time) == (-1, None, None)
    schedule = (arguments.get("lr_schedule") or {}).get("init_args") or {}
    return is_open and any(schedule.get(name) for name in LENGTHS)


def _has_summary(callbacks: list[Any]) -> bool:
    return any(isinstance(callback, ModelSummary) for callback in callbacks)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]

"""The W&B run of a run folder: online for those who are logged in, offline for all others."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.loggers.direction import direction
from lit_gpt_kit.loggers.run_facts import read_run, write_run
from lit_gpt_kit.loggers.wandb_file import STEP, LastRows, read_last_rows

PROJECT = "lit-gpt"
TOKENS = "train/tokens"
NETWORK_SECONDS = 6
FINISH_SECONDS, FINISH_SECONDS_WITH_WEIGHTS = 30, 3600
"""How long the end of a run may take where the network is slow, or gone."""
FLUSH_SECONDS = 1.0
MOST_INCREMENTS = 50
"""W&B shows the last hundred parts of a table."""


class WandbRun(WandbLogger):
    """Lightning's WandbLogger for a run folder: one run for as long as the folder goes on.

    - The x-axis of every curve is `train/tokens`, or the step for a module without
      `num_tokens_seen`. The summary has the last value of each metric, and the best of those of
      validation, such as `best/val/loss`.
    - A run that is continued is the same W&B run. Rows that it repeats after a crash were sent, and
      are left out.
    - Without login, network or answer the run is kept offline, in `RUN_DIR/wandb/`;
      `wandb sync` uploads it later. No question is ever asked, and training never waits.

    What WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_RUN_ID, WANDB_TAGS and the like say goes
    before what is not given here; so a run started by `wandb agent` is the one of the sweep.

    Args:
        log_model: upload the best checkpoint when the run is done, or with "all" every one that is
            saved as the best; online only, since an offline run may be uploaded from where its
            files are not.
        project: of W&B; lit-gpt by default.
        entity: whose project it is.
        group: what runs are shown together; by default those of one configuration.
        job_type: what the run does; fit by default.
        tags: words to find the run by; by default the task's class and the network's size.
        notes: what W&B shows beside the run.
    """

    def __init__(
        self,
        log_model: Literal["all"] | bool = False,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
    ) -> None:
        super().__init__(save_dir=".", project=project or PROJECT, log_model=log_model)
        # W&B warns of it whatever it is, and Lightning gives it always.
        self._wandb_init.pop("anonymous", None)
        self._given = {
            "project": project,
            "entity": entity,
            "group": group,
            "job_type": job_type,
            "tags": list(tags) or None,
            "notes": notes,
        }
        self._defaults: dict[str, Any] = {"project": PROJECT, "job_type": "fit"}
        self._run_dir = Path()
        self._module: LightningModule | None = None
        self._sent = LastRows()
        self._next_row: int | None = None
        self._numbers: dict[str, tuple[int, float]] = {}
        self._best: dict[str, float] = {}
        self._tables: dict[str, tuple[Any, int, int]] = {}

    def place_in(
        self,
        run_dir: Path,
        name: str,
        module: LightningModule,
        run_id: str | None = None,
        rows: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Say where the run lies and what it is called, before it begins.

        Args:
            run_dir: the run folder.
            name: what the run is called: its configuration, a slash, and the folder's name.
            module: what is trained; says by `num_tokens_seen` how far it is.
            run_id: W&B's, of the run that goes on.
            rows: what that run has logged so far.
        """
        # W&B's service writes from the folder that it was once started in.
        self._run_dir = run_dir.absolute()
        self._save_dir = str(self._run_dir)
        self._module = module
        self._id = run_id
        for row in rows:
            self._take_best(row)
        self._defaults |= {
            "name": name,
            "group": name.partition("/")[0],
            "tags": [type(module).__name__],
        }

    # ---- the connection ----

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun when it is first asked for."""
        import wandb

        if self._experiment is None and getattr(self, "_attach_id", None) is not None:
            return super().experiment
        if self._experiment is None:
            # Where there is one, an agent's function or a notebook began it.
            self._experiment = self._begin() if wandb.run is None else wandb.run
            self._define_axis()
        return self._experiment

    @property
    def is_online(self) -> bool:
        """Whether the run is being uploaded."""
        run = self._experiment
        return run is not None and not run.disabled and not run.offline

    def _begin(self) -> Any:
        import wandb

        # W&B writes elsewhere where its folder is missing.
        self._run_dir.mkdir(parents=True, exist_ok=True)
        wanted: dict[str, Any] = {
            "silent": True,
            "console": "off",
            "init_timeout": NETWORK_SECONDS,
            "finish_timeout": FINISH_SECONDS_WITH_WEIGHTS if self._log_model else FINISH_SECONDS,
            "x_transaction_log_flush_interval": FLUSH_SECONDS,
        }
        known = wandb.Settings.model_fields
        quiet = wandb.Settings(**{name: v for name, v in wanted.items() if name in known})
        said = _what_wandb_was_told(quiet)
        arguments = self._arguments(said)
        mode: str = said.mode
        if mode == "online":
            try:
                if wandb.login(prompt=False, verify=False):
                    return wandb.init(**arguments, settings=self._in_mode(quiet, mode))
            except Exception as error:  # whatever it is, training goes on
                what = type(error).__name__
                rank_zero_warn(f"W&B cannot be reached ({what}); the run is kept offline")
                # Its service holds the id of the run that failed, and refuses it a second time.
                wandb.teardown()
                wandb.setup(quiet)
            mode = "offline"
        self._sent = read_last_rows(self._run_dir / "wandb", str(arguments.get("id")))
        if self._sent.wandb_step >= 0:
            self._next_row = self._sent.wandb_step + 1  # else W&B would count from 0 again
        try:
            return wandb.init(**arguments, settings=self._in_mode(quiet, mode))
        except Exception as error:
            rank_zero_warn(f"no W&B run ({type(error).__name__}: {error}); metrics.csv has it all")
            return wandb.init(mode="disabled")

    @staticmethod
    def _in_mode(settings: Any, mode: str) -> Any:
        return settings.model_copy(update={"mode": mode})

    def _arguments(self, said: Any) -> dict[str, Any]:
        """Of `wandb.init`: what was given, else what W&B was told, else our defaults."""
        arguments: dict[str, Any] = {"dir": str(self._run_dir), "resume": "allow"}
        of_settings = {
            "name": "run_name",
            "group": "run_group",
            "tags": "run_tags",
            "job_type": "run_job_type",
        }
        for name, default in self._defaults.items():
            if getattr(said, of_settings.get(name, name)) is None:
                arguments[name] = default
        arguments |= {name: value for name, value in self._given.items() if value is not None}
        if said.run_id is None:
            # Its own for a run that cannot be reached, too: what `wandb sync` finds is one run.
            arguments["id"] = self._id or secrets.token_hex(8)
        return arguments

    def _define_axis(self) -> None:
        run: Any = self._experiment
        last = run.summary.get(STEP) if run.resumed else None
        if last is not None:
            self._sent = LastRows(int(last))
        run.define_metric(STEP)
        if self._axis == TOKENS:
            run.define_metric(TOKENS)
        run.define_metric("*", step_metric=self._axis, step_sync=True)

    @property
    def _axis(self) -> str:
        return TOKENS if hasattr(self._module, "num_tokens_seen") else STEP

    # ---- rows ----

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send a row, at the tokens that were seen so far.

        Args:
            metrics: name to value, or to one of W&B's pictures and tables.
            step: Lightning's, which counts the steps before the one that is done.
        """
        number = self._number(step)
        new = {name: v for name, v in metrics.items() if not self._was_sent(number, name, v)}
        if not new.keys() - {"epoch"}:
            return
        self._numbers |= {name: (number, v) for name, v in new.items() if isinstance(v, float)}
        run = self.experiment
        run.log({STEP: number, **self._tokens(), **new}, step=self._next_row, commit=True)
        self._next_row = None
        # W&B's own minimum starts anew when a run goes on, and puts a table where sweeps and
        # people look for the last value.
        best = self._take_best(new)
        if best:
            run.summary.update({f"best/{name}": value for name, value in best.items()})

    @rank_zero_only
    def log_growing_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Show a table that rows are added to; only those that are new are sent.

        Args:
            key: its name.
            columns: their names; the first holds the step.
            rows: all so far.
        """
        import wandb

        run = self.experiment
        table, num_sent, num_parts = self._tables.get(key, (None, 0, 0))
        if table is None and run.resumed:  # W&B puts what is added behind what it has
            num_sent = sum(row[0] <= self._sent.step for row in rows)
        if num_sent >= len(rows):
            return
        if table is not None and num_parts < MOST_INCREMENTS:
            for row in rows[num_sent:]:
                table.add_data(*row)
        else:
            start = num_sent if run.resumed else 0
            data = [list(row) for row in rows[start:]]
            table = wandb.Table(columns=list(columns), data=data, log_mode="INCREMENTAL")
            num_parts = 0
        self._tables[key] = (table, len(rows), num_parts + 1)
        self.log_metrics({key: table})

    def _number(self, step: int | None) -> int:
        if step is not None:
            return step + 1
        trainer = getattr(self._module, "_trainer", None)
        return 0 if trainer is None else int(trainer.global_step)

    def _tokens(self) -> dict[str, float]:
        seen = getattr(self._module, "num_tokens_seen", None)
        return {} if seen is None else {TOKENS: float(seen)}

    def _was_sent(self, number: int, name: str, value: Any) -> bool:
        # A step that was logged before its checkpoint was written is logged again.
        if self._numbers.get(name) == (number, value):
            return True
        if number == self._sent.step:
            if self._sent.names:
                return name in self._sent.names
            return name.startswith("train/")  # W&B does not say; validation may not have come
        return number < self._sent.step

    def _take_best(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Remember which are better than all before, and return them."""
        better = {}
        for name, value in metrics.items():
            pick = direction(name) if isinstance(value, (int, float)) else None
            if pick is not None and pick(value, self._best.get(name, value)) == value:
                better[name] = float(value)
        self._best |= better
        return better

    # ---- files ----

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Put what the run is made of into W&B's config, where runs are filtered by it."""
        self.experiment.config.update(dict(config), allow_val_change=True)

    @rank_zero_only
    def log_config_file(self, path: Path) -> None:
        """Keep config.yaml as an artifact; it is uploaded with an offline run, too."""
        import wandb

        artifact = wandb.Artifact(f"config-{self.experiment.id}", type="config")
        artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact)

    @rank_zero_only
    def use_source(self, artifact: str | None) -> None:
        """Online, draw the line from the artifact that the run's weights come from.

        Args:
            artifact: of another run; None where its weights were not uploaded.
        """
        if artifact is not None and self.is_online:
            try:
                self.experiment.use_artifact(artifact)
            except Exception as error:  # deleted, or another entity's
                rank_zero_warn(f"W&B does not give {artifact} ({type(error).__name__})")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Upload the best checkpoint where that was asked for, and remember its name."""
        super().finalize(status)
        if self._logged_model_time:
            run = self.experiment
            name = f"{run.entity}/{run.project}/{self._checkpoint_name}:best"
            write_run(self._run_dir, {**read_run(self._run_dir), "wandb_artifact": name})

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Lightning's, online."""
        if self.is_online:
            super().after_save_checkpoint(checkpoint_callback)


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

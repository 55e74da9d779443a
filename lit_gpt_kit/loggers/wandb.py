"""The W&B run of a run folder: online for those who are logged in, offline for all others."""

import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lit_gpt_kit.loggers.direction import direction
from lit_gpt_kit.loggers.growing_table import GrowingTable
from lit_gpt_kit.loggers.run_file import read_run, write_run
from lit_gpt_kit.loggers.sent_rows import SentRows
from lit_gpt_kit.loggers.wandb_connection import begin_run, finish_run, no_run
from lit_gpt_kit.loggers.wandb_file import STEP, LastRows, read_last_rows

PROJECT = "lit-gpt"
TOKENS = "train/tokens"
FINISH_SECONDS, FINISH_SECONDS_WITH_WEIGHTS = 20, 3600
"""How long the end of a run may take where the network is slow, or gone."""


class WandbRun(WandbLogger):
    """Lightning's WandbLogger for a run folder: one run for as long as the folder goes on.

    - The x-axis of every curve is `train/tokens`, or the step for a module without
      `num_tokens_seen`. The summary has the last value of each metric, and the best of those of
      validation, such as `best/val/loss`.
    - A run that is continued is the same W&B run. Rows that it repeats after a crash were sent, and
      are left out; rows that were not, as the network was gone, are sent.
    - Without login, network or answer the run is kept offline, in `RUN_DIR/wandb/`;
      `wandb sync` uploads it later. No question is ever asked, and training never waits for W&B,
      nor ends with it.

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
        self._is_ours = False
        self._run_dir = Path()
        self._shown_dir = Path()
        self._module: LightningModule | None = None
        self._rows: Sequence[Mapping[str, float]] = ()
        self._sent = SentRows()
        self._next_row: int | None = None
        self._best: dict[str, float] = {}
        self._tables: dict[str, GrowingTable] = {}

    def place_in(
        self,
        run_dir: Path,
        name: str,
        module: LightningModule,
        place: Mapping[str, str | None] = MappingProxyType({}),
        rows: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Say where the run lies and what it is called, before it begins.

        Args:
            run_dir: the run folder.
            name: what the run is called: its configuration, a slash, and the folder's name.
            module: what is trained; says by `num_tokens_seen` how far it is.
            place: of the run that goes on, as `place` was then; what W&B is told goes before it.
            rows: what that run has logged so far, with `step` and `train/tokens`.
        """
        # W&B's service writes from the folder that it was once started in.
        self._run_dir, self._shown_dir = run_dir.absolute(), run_dir
        self._save_dir = str(self._run_dir)
        self._module = module
        self._id = place.get("id")
        self._rows = rows
        for row in rows:
            self._take_best(row)
        self._defaults |= {
            "project": place.get("project") or PROJECT,
            "entity": place.get("entity"),
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
            # Where there is one, an agent's function or a notebook began it, and ends it.
            self._is_ours = wandb.run is None
            self._experiment = self._begin() if self._is_ours else wandb.run
            with self._without_fail():
                self._define_axis()
                self._send_what_is_missing()
        return self._experiment

    @property
    def is_online(self) -> bool:
        """Whether the run is being uploaded."""
        run = self._experiment
        return run is not None and not run.disabled and not run.offline

    @property
    def place(self) -> dict[str, str | None]:
        """The run's id, project and entity, the last of which is known online alone."""
        run = self.experiment
        if run.disabled:
            return {}
        return {"id": run.id, "project": run.project or None, "entity": run.entity or None}

    @property
    def url(self) -> str | None:
        """Where the run is looked at; None where it is not online."""
        run = self._experiment
        return str(run.url) if run is not None and self.is_online else None

    def _begin(self) -> Any:
        seconds = FINISH_SECONDS_WITH_WEIGHTS if self._log_model else FINISH_SECONDS
        run = begin_run(self._run_dir, seconds, self._arguments)
        if run.offline and not run.disabled:
            last = read_last_rows(self._run_dir / "wandb", run.id)
            self._sent = SentRows(last)
            if last.wandb_step >= 0:
                self._next_row = last.wandb_step + 1  # else W&B would count from 0 again
        return run

    @contextmanager
    def _without_fail(self) -> Iterator[None]:
        """Go on without W&B from where its service has died, or cannot write."""
        try:
            yield
        except (TypeError, ValueError):  # what was logged is wrong
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            rank_zero_warn(f"W&B is lost ({what}); training goes on, and metrics.csv has it all")
            self._experiment = no_run(self._experiment)

    @rank_zero_only
    def finish(self, exit_status: int = 0) -> None:
        """End the run, and say what to type where not all of it could be uploaded.

        W&B does so at the end of the process, too, but says nothing.

        Args:
            exit_status: of the process; other than 0, and W&B calls the run failed.
        """
        run: Any = self._experiment
        if run is None or not self._is_ours:
            return
        is_whole = False
        try:
            is_whole = finish_run(run, exit_status)
        finally:
            if not is_whole:  # also where somebody did not want to wait
                self._say_how_to_upload(run)

    def _say_how_to_upload(self, run: Any) -> None:
        if not run.offline and not run.disabled:
            part = self._shown_dir / "wandb" / Path(run.dir).parent.name
            command = f"wandb sync --include-online {shlex.quote(str(part))}"
            rank_zero_warn(f"W&B has not all of this run; to upload the rest: {command}")

    def _arguments(self, said: Any) -> dict[str, Any]:
        """Of `wandb.init`: what was given, else what W&B was told, else our defaults."""
        arguments: dict[str, Any] = {"resume": "allow"}
        of_settings = {
            "name": "run_name",
            "group": "run_group",
            "tags": "run_tags",
            "job_type": "run_job_type",
        }
        for name, default in self._defaults.items():
            if default is not None and getattr(said, of_settings.get(name, name)) is None:
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
            self._sent = SentRows(LastRows(int(last)), run.summary)
        run.define_metric(STEP)
        if self._axis == TOKENS:
            run.define_metric(TOKENS)
        run.define_metric("*", step_metric=self._axis, step_sync=True)

    def _send_what_is_missing(self) -> None:
        # An earlier part was cut off, or its network was; metrics.csv has its rows.
        is_missing = False
        for row in self._rows:
            step = int(row["step"])
            new = self._sent.add(step, {n: v for n, v in row.items() if n not in ("step", TOKENS)})
            if new:
                is_missing = True
                tokens = {TOKENS: row[TOKENS]} if TOKENS in row else {}
                self._send({STEP: step, **tokens, **new})
        if is_missing:
            self._send_best(self._best)
        if self._rows and self._rows[-1]["step"] >= self._sent.last.step:
            row = self._rows[-1]
            self._sent.last = LastRows(int(row["step"]), frozenset(row))

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
        self.experiment  # noqa: B018 - begun first: it knows what was sent
        number = self._number(step)
        new = self._sent.add(number, metrics)
        if not new.keys() - {"epoch"}:
            return
        with self._without_fail():
            self._send({STEP: number, **self._tokens(), **new})
            self._send_best(self._take_best(new))

    def _send(self, row: Mapping[str, Any]) -> None:
        self.experiment.log(row, step=self._next_row, commit=True)
        self._next_row = None

    def _send_best(self, best: Mapping[str, float]) -> None:
        # W&B's own minimum starts anew when a run goes on, and puts a table where sweeps and people
        # look for the last value.
        if best:
            self.experiment.summary.update({f"best/{name}": best[name] for name in best})

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
        run = self.experiment
        with self._without_fail():
            if key not in self._tables:
                last_step = run.summary.get(f"{key}/step", -1) if run.resumed else None
                self._tables[key] = GrowingTable(columns, last_step)
            table = self._tables[key].add(rows)
            if table is not None:
                self._send({STEP: self._number(None), **self._tokens(), key: table})
                run.summary.update({f"{key}/step": rows[-1][0]})

    def _number(self, step: int | None) -> int:
        if step is not None:
            return step + 1
        trainer = getattr(self._module, "_trainer", None)
        return 0 if trainer is None else int(trainer.global_step)

    def _tokens(self) -> dict[str, float]:
        seen = getattr(self._module, "num_tokens_seen", None)
        return {} if seen is None else {TOKENS: float(seen)}

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
        with self._without_fail():
            self.experiment.config.update(dict(config), allow_val_change=True)

    @rank_zero_only
    def log_config_file(self, path: Path) -> None:
        """Keep config.yaml as an artifact; it is uploaded with an offline run, too."""
        import wandb

        artifact = wandb.Artifact(f"config-{self.experiment.id}", type="config")
        artifact.add_file(str(path), name=path.name)
        with self._without_fail():
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
        with self._without_fail():
            super().finalize(status)
        if self._logged_model_time and self.is_online:
            run = self.experiment
            name = f"{run.entity}/{run.project}/{self._checkpoint_name}:best"
            write_run(self._run_dir, {**read_run(self._run_dir), "wandb_artifact": name})

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Lightning's, online."""
        if self.is_online:
            with self._without_fail():
                super().after_save_checkpoint(checkpoint_callback)

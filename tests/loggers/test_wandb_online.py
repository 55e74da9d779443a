"""What reaches a W&B server, also one that goes away."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from lightning.pytorch import LightningModule

from lit_gpt_kit.loggers import wandb as loggers_wandb
from lit_gpt_kit.loggers import wandb_connection
from lit_gpt_kit.loggers.wandb import WandbRun
from tests.command import run_process, write_project
from tests.run_dir import read_metrics
from tests.wandb_file import offline_runs
from tests.wandb_server import WandbServer, wandb_server

FIT = ("fit", "--config", "tiny.yaml", "--run_dir", "one")
AGAIN = ("fit", "--config", "one/config.yaml", "--run_dir", "one", "--ckpt_path", "last")
LOSSES = [5.0, 4.0, 3.0, 2.0, 1.0]
CURVE = [(64 * step, loss) for step, loss in enumerate(LOSSES, start=1)]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as server:
        yield server


@pytest.fixture
def online(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """The server, with this process logged in."""
    wandb.teardown()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    wandb.teardown()


class Run:
    """A run of five steps, one row and one sample each, without the training."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.module: Any = LightningModule()
        self.logger = WandbRun()
        self.logger.place_in(folder, "tiny/one", self.module, **options)

    def log(self, *steps: int) -> None:
        for step in steps:
            self.module.num_tokens_seen = 64 * step
            self.module._trainer = SimpleNamespace(global_step=step)
            self.logger.log_metrics({"val/loss": LOSSES[step - 1]}, step=step - 1)
            samples = [[number, f"text {number}"] for number in range(1, step + 1)]
            self.logger.log_growing_table("samples", ["step", "text"], samples)


def rows_of(*steps: int) -> list[dict[str, float]]:
    """The same rows, as metrics.csv has them."""
    return [{"step": float(s), "train/tokens": 64.0 * s, "val/loss": LOSSES[s - 1]} for s in steps]


def sync(folder: Path, server: WandbServer, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("wandb")), "sync", *arguments]
    env = {**os.environ, **server.environment}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, timeout=120)


# ---- fit ----


@pytest.mark.slow
def test_run_and_its_continuation(tmp_path: Path, server: WandbServer) -> None:
    write_project(tmp_path)
    for command in (FIT, (*AGAIN, "--trainer.max_steps=9")):
        result = run_process(tmp_path, *command, env=server.environment)
        assert result.status == 0, result.err
        ((run_id, found),) = server.runs.items()
        assert result.out.count(f"{server.url}/them/lit-gpt/runs/{run_id}\n") == 2
    assert (found.times_begun, found.exit_status) == (2, 0)
    rows = read_metrics(tmp_path / "one")
    losses = [(row["train/tokens"], row["train/loss"]) for row in rows]
    assert found.curve("train/loss") == [(x, pytest.approx(y, rel=1e-6)) for x, y in losses]
    assert [x for x, _ in found.curve("val/loss")] == [192, 384, 576]
    assert [row["_step"] for row in found.rows] == list(range(len(found.rows)))
    assert found.config["model"]["init_args"]["gpt"]["embed_dim"] == 16
    assert found.summary["best/val/loss"] == min(loss for _, loss in found.curve("val/loss"))
    assert server.artifacts[f"config-{run_id}"] == "config"


@pytest.mark.slow
def test_run_is_linked_to_the_one_whose_weights_it_starts_from(
    tmp_path: Path, server: WandbServer
) -> None:
    write_project(tmp_path)
    logger = "{class_path: lit_gpt_kit.loggers.wandb.WandbRun, init_args: {log_model: true}}"
    (tmp_path / "upload.yaml").write_text(f"trainer: {{logger: {logger}}}\n")
    for given in (("--config", "upload.yaml"), ("--model.pretrained=one", "--run_dir=two")):
        result = run_process(tmp_path, *FIT, *given, env=server.environment)
        assert result.status == 0, result.err
    first, second = server.runs
    assert server.artifacts[f"model-{first}"] == "model"
    assert f"model-{second}" not in server.artifacts
    assert server.runs[second].used == [f"model-{first}"]
    ((_, uploaded),) = ((p, f) for p, f in server.files.items() if p.endswith("model.ckpt"))
    assert uploaded == (tmp_path / "one" / "checkpoints" / "best.ckpt").read_bytes()


@pytest.mark.slow
def test_parts_that_were_kept_offline_are_one_run_when_they_are_uploaded(
    tmp_path: Path, server: WandbServer
) -> None:
    write_project(tmp_path)
    for command in (FIT, (*AGAIN, "--trainer.max_steps=9")):
        result = run_process(tmp_path, *command)
        assert result.status == 0, result.err
    parts = sorted(tmp_path.glob("one/wandb/offline-run-*"))
    sync(tmp_path, server, *map(str, parts))
    (found,) = server.runs.values()
    assert [x for x, _ in found.curve("train/loss")] == [64 * step for step in range(1, 10)]
    assert [row["_step"] for row in found.rows] == list(range(len(found.rows)))


# ---- a network that goes away ----


@pytest.mark.slow
def test_what_was_not_uploaded_can_be(
    tmp_path: Path, online: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers_wandb, "FINISH_SECONDS", 2)
    monkeypatch.chdir(tmp_path)
    run = Run(Path("one"))
    run.log(1, 2)
    online.go_away()
    run.log(3, 4, 5)
    with pytest.warns(UserWarning, match="not all of this run") as said:
        run.logger.finish()
    online.come_back()
    _, command = str(said[0].message).split("upload the rest: wandb sync ")
    sync(tmp_path, online, *shlex.split(command))
    (found,) = online.runs.values()
    assert found.curve("val/loss") == CURVE
    assert len(found.curve("samples")) == 5


def test_no_table_waits_for_an_answer(tmp_path: Path, online: WandbServer) -> None:
    run = Run(tmp_path)
    run.log(1)
    run.logger.finish()
    assert "CreateArtifact" in online.asked  # the table's
    assert "ArtifactType" not in online.asked


@pytest.mark.slow
def test_a_run_that_goes_on_sends_what_earlier_parts_could_not(
    tmp_path: Path, online: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    run.log(1)
    run.logger.finish()
    place = run.logger.place
    monkeypatch.setattr(loggers_wandb, "FINISH_SECONDS", 1)
    run = Run(tmp_path, place=place, rows=rows_of(1))
    run.logger.log_config({"a": 1})
    online.go_away()
    run.log(2, 3)
    with pytest.warns(UserWarning, match="not all of this run"):
        run.logger.finish()
    online.come_back()
    monkeypatch.setattr(loggers_wandb, "FINISH_SECONDS", 30)
    run = Run(tmp_path, place=place, rows=rows_of(1, 2, 3))
    run.logger.log_config({"a": 2})  # and ends before there is a sample
    run.logger.finish()
    run = Run(tmp_path, place=place, rows=rows_of(1, 2, 3))
    run.log(3, 4, 5)  # step 3 is trained again
    run.logger.finish()
    (found,) = online.runs.values()
    assert found.curve("val/loss") == CURVE
    assert found.summary["best/val/loss"] == 1.0
    tables = [json.loads(file) for path, file in online.files.items() if "media/table" in path]
    assert sorted(row[0] for table in tables for row in table["data"]) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_validation_that_was_cut_off_its_step_is_sent(
    tmp_path: Path, online: WandbServer
) -> None:
    run = Run(tmp_path)
    run.module.num_tokens_seen = 64
    run.logger.log_metrics({"train/loss": 6.0}, step=0)
    run.logger.finish()
    rows = [{**rows_of(1)[0], "train/loss": 6.0}]
    for _ in range(2):  # and once alone
        run = Run(tmp_path, place=run.logger.place, rows=rows)
        run.logger.log_config({})
        run.logger.finish()
    (found,) = online.runs.values()
    assert (found.curve("train/loss"), found.curve("val/loss")) == ([(64, 6.0)], CURVE[:1])


def test_a_run_goes_on_where_an_offline_one_was_cut_off(
    tmp_path: Path, fresh_wandb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "of-a-sweep")
    wandb.teardown()
    before = Run(tmp_path)
    before.log(1, 2)
    before.logger.finish()
    after = Run(tmp_path, place={"id": "of-a-sweep"}, rows=rows_of(1, 2, 3))
    after.log(3, 4, 5)
    after.logger.finish()
    first, second = offline_runs(tmp_path)
    assert [first.curve("val/loss"), second.curve("val/loss")] == [CURVE[:2], CURVE[2:]]
    counts = [row["_step"] for part in (first, second) for row in part.history]
    assert counts == list(range(len(counts)))


def test_training_goes_on_when_the_service_of_wandb_dies(
    tmp_path: Path, online: WandbServer
) -> None:
    run = Run(tmp_path)
    run.log(1)
    _kill_service()
    with pytest.warns(UserWarning, match="W&B is lost") as said:
        run.log(2, 3)
    assert len(said) == 1
    assert not run.logger.is_online
    run.logger.finish()
    another = Run(tmp_path / "two")
    another.log(1)
    assert another.logger.is_online
    another.logger.finish()


@pytest.mark.slow
def test_who_does_not_wait_for_the_end_is_told_how_to_upload(
    tmp_path: Path, online: WandbServer
) -> None:
    run = Run(tmp_path)
    run.log(1)
    online.go_away()
    ctrl_c = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    ctrl_c.start()
    with (
        pytest.warns(UserWarning, match="wandb sync --include-online"),
        pytest.raises(KeyboardInterrupt),
    ):
        run.logger.finish()


@pytest.mark.slow
def test_who_stops_a_run_does_not_wait_as_long(
    tmp_path: Path,
    online: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(wandb_connection, "FINISH_SECONDS_OF_AN_INTERRUPTED", 3)
    run = Run(tmp_path)
    run.log(1)
    online.go_away()
    with pytest.warns(UserWarning, match="wandb sync --include-online"):
        run.logger.finish(exit_status=130)
    assert capsys.readouterr().out == "uploading to W&B, for 3 seconds at most ...\n"


@pytest.mark.usefixtures("fresh_wandb")
def test_the_next_run_is_another_where_the_end_of_one_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(wandb_connection, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(loggers_wandb, "FINISH_SECONDS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(wandb_connection, "_finish", lambda *arguments: never.wait(60))
        run = Run(tmp_path / "one")
        run.log(1)
        run.logger.finish()
    assert wandb.run is None
    another = Run(tmp_path / "two")
    another.log(1, 2)
    another.logger.finish()
    never.set()
    (part,) = offline_runs(tmp_path / "two")
    assert part.curve("val/loss") == CURVE[:2]


@pytest.mark.usefixtures("fresh_wandb")
def test_a_run_stays_in_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for told, expected in ((None, "theirs"), ("mine", "mine")):
        if told:
            monkeypatch.setenv("WANDB_PROJECT", told)
            wandb.teardown()
        run = Run(tmp_path / expected, place={"id": "abc", "project": "theirs", "entity": None})
        run.log(1)
        assert run.logger.place == {"id": "abc", "project": expected, "entity": None}
        run.logger.finish()


def _kill_service() -> None:
    # The one that this process has started, of all that are on the machine.
    for path in Path("/proc").glob("[0-9]*/stat"):
        name, _, rest = path.read_text().partition("(")[2].rpartition(") ")
        if name == "wandb-core" and rest.split()[1] == str(os.getpid()):
            os.kill(int(path.parent.name), signal.SIGKILL)

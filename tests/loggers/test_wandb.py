"""The W&B run of a run folder, as its .wandb file has it."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
import yaml
from lightning.pytorch import LightningModule

from lit_gpt_kit.checkpoints.seal import has_good_seal, save_sealed
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.loggers import wandb_connection
from lit_gpt_kit.loggers.run_file import read_run
from lit_gpt_kit.loggers.wandb import WandbRun
from tests.command import run, write_project
from tests.run_dir import read_metrics
from tests.wandb_file import OfflineRun, offline_runs

FIT = ("fit", "--config", "tiny.yaml", "--run_dir", "one")
AGAIN = ("fit", "--config", "one/config.yaml", "--run_dir", "one", "--ckpt_path")
ALL_TOKENS = [64 * step for step in range(1, 10)]


class Module(LightningModule):
    """What a logger asks for how far it is."""

    num_tokens_seen = 0


def place(logger: WandbRun, folder: Path, **options: Any) -> WandbRun:
    logger.place_in(folder, "tiny/one", options.pop("module", Module()), **options)
    return logger


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run of six steps that was then continued to nine."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    for command in (FIT, (*AGAIN, "last", "--trainer.max_steps=9")):
        result = run(folder, *command)
        assert result.status == 0, result.err
    return folder


@pytest.fixture(scope="module")
def parts(project: Path) -> list[OfflineRun]:
    return offline_runs(project / "one")


# ---- a run and its continuation ----


def test_every_curve_is_against_tokens(parts: list[OfflineRun]) -> None:
    for part in parts:
        assert part.metrics["*"].step_metric == "train/tokens"
        assert not part.metrics["train/tokens"].step_metric
    assert [x for part in parts for x, _ in part.curve("train/loss")] == ALL_TOKENS
    assert [x for part in parts for x, _ in part.curve("val/loss")] == [192, 384, 576]
    assert [x for part in parts for x, _ in part.curve("samples")] == [192, 384, 576]


def test_values_are_those_of_metrics_csv(project: Path, parts: list[OfflineRun]) -> None:
    rows = read_metrics(project / "one")
    losses = [loss for part in parts for _, loss in part.curve("train/loss")]
    assert losses == pytest.approx([row["train/loss"] for row in rows], rel=1e-6)
    steps = [row["trainer/global_step"] for p in parts for row in p.history if "train/loss" in row]
    assert steps == [row["step"] for row in rows]


def test_a_run_that_goes_on_is_the_same_run(project: Path, parts: list[OfflineRun]) -> None:
    first, second = (part.run for part in parts)
    record = read_run(project / "one")
    assert first.run_id == second.run_id == record["wandb_id"]
    assert first.project == second.project == record["wandb_project"]
    counts = [row["_step"] for part in parts for row in part.history]
    assert counts == list(range(len(counts)))  # which W&B would begin at 0 again


def test_name_group_and_tags(parts: list[OfflineRun]) -> None:
    for who in (part.run for part in parts):  # the second is started from one/config.yaml
        assert (who.display_name, who.run_group) == ("tiny/one", "tiny")
        said = (who.project, who.job_type, list(who.tags))
        assert said == ("lit-gpt", "fit", ["LanguageModeling"])


def test_config_is_the_resolved_one_with_the_facts(project: Path, parts: list[OfflineRun]) -> None:
    config, record = parts[1].config, read_run(project / "one")
    resolved = yaml.safe_load((project / "one" / "config.yaml").read_text())
    assert {key: config[key] for key in resolved} == resolved
    assert config["run"] == record
    assert record["lineage"] == {"kind": "new"}
    assert record["versions"]["torch"] == torch.__version__
    weights = torch.load(project / "one" / "checkpoints" / "last.ckpt", weights_only=True)
    tied_once = {weight.data_ptr(): weight.numel() for weight in weights["state_dict"].values()}
    assert record["num_parameters"] == sum(tied_once.values())
    assert len(record["data_fingerprint"]) == len(record["tokenizer_hash"]) == 64
    (again,) = record["continued"]
    assert again["step"] == 6
    assert again["started"] >= record["started"]


def test_summary_has_the_last_and_the_best(parts: list[OfflineRun]) -> None:
    losses = [loss for part in parts for _, loss in part.curve("val/loss")]
    summary = {**parts[0].summary, **parts[1].summary}
    assert summary["val/loss"] == losses[-1]
    assert summary["best/val/loss"] == min(losses)
    assert not [name for name in summary if name.startswith("best/train")]


def test_best_is_of_the_whole_run(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        wandb.teardown()
        rows = [{"step": 1.0, "val/loss": 1.0, "val/f1": 0.5}]
        logger = place(WandbRun(), tmp_path, rows=rows)
        logger.log_metrics({"val/loss": 2.0, "val/f1": 0.75}, step=1)
        wandb.finish()
        (part,) = offline_runs(tmp_path)
        wandb.teardown()
    assert part.summary["val/loss"] == 2.0
    assert part.summary["best/val/f1"] == 0.75
    assert part.summary["best/val/loss"] == 1.0


def test_samples_are_one_growing_table(parts: list[OfflineRun]) -> None:
    tables = []
    for part in parts:
        for _, table in part.curve("samples"):
            assert (table["_type"], table["log_mode"]) == ("incremental-table-file", "INCREMENTAL")
            tables.append(json.loads((part.path.parent / "files" / table["path"]).read_text()))
    steps = [[row[0] for row in table["data"]] for table in tables]
    # Each part of the table holds what is new; an offline run that goes on begins with all.
    assert steps == [[3], [6], [3, 6, 9]]
    assert tables[0]["columns"] == ["step", "tokens", "prompt", "text"]
    parts_before = [table["previous_increments_paths"] for _, table in parts[0].curve("samples")]
    assert [len(paths) for paths in parts_before] == [0, 1]


def test_config_file_is_an_artifact_and_no_weights_are(parts: list[OfflineRun]) -> None:
    logged = [(artifact.name, artifact.type) for artifact in parts[0].artifacts]
    assert (f"config-{parts[0].run.run_id}", "config") in logged
    assert not [kind for _, kind in logged if kind == "model"]


# ---- steps that are repeated ----


@pytest.fixture
def crashed(project: Path, tmp_path: Path) -> Path:
    """The run again, with a last.ckpt from before its end: what a crash leaves."""
    copy = tmp_path / "crashed"
    shutil.copytree(project, copy, symlinks=True)
    checkpoints = copy / "one" / "checkpoints"
    assert torch.load(checkpoints / "previous.ckpt", weights_only=True)["global_step"] < 9
    shutil.copy(checkpoints / "previous.ckpt", checkpoints / "last.ckpt")
    return copy


def test_repeated_steps_are_not_sent_again(crashed: Path) -> None:
    result = run(crashed, *AGAIN, "last", "--trainer.max_steps=11")
    assert result.status == 0, result.err
    parts = offline_runs(crashed / "one")
    assert len({part.run.run_id for part in parts}) == 1
    tokens = [x for part in parts for x, _ in part.curve("train/loss")]
    assert tokens == [64 * step for step in range(1, 12)]
    assert len(read_metrics(crashed / "one")) == 11


def test_another_curve_is_another_run(crashed: Path) -> None:
    result = run(crashed, *AGAIN, "last", "--trainer.max_steps=11", "--model.optimizer.lr=0.001")
    assert result.status == 0, result.err
    *before, last = offline_runs(crashed / "one")
    assert last.run.run_id not in {part.run.run_id for part in before}
    assert read_run(crashed / "one")["wandb_id"] == last.run.run_id
    assert last.curve("train/loss")[0][0] < 9 * 64


# ---- the logger alone ----


@pytest.mark.usefixtures("fresh_wandb")
def test_a_run_lies_in_its_folder_wherever_the_service_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):  # the second finds a service that was started in folder one
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        logger = place(WandbRun(), Path("run"))
        logger.log_metrics({"a": 1.0}, step=0)
        wandb.finish()
        (part,) = offline_runs(tmp_path / name / "run")
        assert part.history[0]["a"] == 1.0


@pytest.mark.usefixtures("fresh_wandb")
def test_what_wandb_was_told_goes_before_our_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NAME", "PROJECT", "RUN_ID", "RUN_GROUP"):
        monkeypatch.setenv(f"WANDB_{name}", f"my-{name.lower()}")
    logger = place(WandbRun(group="given", tags=["a", "b"]), tmp_path, place={"id": "ours"})
    logger.log_metrics({"a": 1.0}, step=0)
    wandb.finish()
    (part,) = offline_runs(tmp_path)
    who = part.run
    assert (who.display_name, who.project, who.run_id) == ("my-name", "my-project", "my-run_id")
    assert (who.run_group, list(who.tags)) == ("given", ["a", "b"])


@pytest.mark.usefixtures("fresh_wandb")
def test_a_run_that_is_there_is_used(tmp_path: Path) -> None:
    theirs = wandb.init(dir=tmp_path, id="theirs", config={"lr": 0.5})
    logger = place(WandbRun(), tmp_path / "run")
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.log_config({"model": {"lr": 0.5}})
    assert logger.version == "theirs"
    theirs.finish()
    (part,) = offline_runs(tmp_path)
    assert part.curve("train/loss") == [(0, 1.0)]
    assert (part.config["lr"], part.config["model"]) == (0.5, {"lr": 0.5})


@pytest.mark.usefixtures("fresh_wandb")
def test_module_that_counts_no_tokens_has_steps_for_an_axis(tmp_path: Path) -> None:
    logger = place(WandbRun(), tmp_path, module=LightningModule())
    logger.log_metrics({"train/loss": 1.0}, step=4)
    wandb.finish()
    (part,) = offline_runs(tmp_path)
    assert part.metrics["*"].step_metric == "trainer/global_step"
    assert part.curve("train/loss", "trainer/global_step") == [(5, 1.0)]


def test_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = place(WandbRun(log_model=True), tmp_path)
    logger.log_metrics({"val/loss": 1.0}, step=0)
    logger.log_growing_table("samples", ["step"], [[1]])
    logger.log_config({"a": 1})
    assert not list(tmp_path.glob("wandb/*run-*"))
    wandb.finish()
    wandb.teardown()


# ---- online ----


class OnlineRun:
    """What the logger asks of an online run, and what it was given."""

    id, entity, project = "abc", "them", "gpt"
    offline = disabled = resumed = False

    def __init__(self) -> None:
        self.logged: list[tuple[Any, list[str]]] = []
        self.used: list[str] = []

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        self.logged.append((artifact, aliases))

    def use_artifact(self, name: str) -> None:
        self.used.append(name)


class LostRun(OnlineRun):
    """One whose service has died."""

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        raise BrokenPipeError("it is gone")


def test_best_checkpoint_is_uploaded_once_and_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "best.ckpt"
    save_sealed({"a": torch.ones(1)}, path)
    saved = SimpleNamespace(
        best_model_path=str(path), best_model_score=torch.tensor(2.5), save_top_k=1
    )
    online = OnlineRun()
    logger = place(WandbRun(log_model=True), tmp_path)
    logger._experiment = online  # type: ignore[assignment]
    for _ in range(2):
        logger.after_save_checkpoint(saved)  # type: ignore[arg-type]
    assert not online.logged
    logger.finalize("success")
    ((artifact, aliases),) = online.logged
    assert (artifact.name, artifact.type, aliases) == ("model-abc", "model", ["latest", "best"])
    assert artifact.metadata["score"] == 2.5
    assert has_good_seal(Path(artifact.manifest.entries["model.ckpt"].local_path))
    name = read_run(tmp_path)["wandb_artifact"]
    assert name == "them/gpt/model-abc:best"
    logger.use_source(name)
    logger.use_source(None)
    assert online.used == [name]


def test_a_checkpoint_that_could_not_be_uploaded_is_not_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "best.ckpt"
    save_sealed({"a": torch.ones(1)}, path)
    logger = place(WandbRun(log_model="all"), tmp_path)
    logger._experiment = LostRun()  # type: ignore[assignment]
    saved = SimpleNamespace(best_model_path=str(path), best_model_score=None, save_top_k=1)
    with pytest.warns(UserWarning, match=r"W&B is lost \(BrokenPipeError: it is gone\)"):
        logger.after_save_checkpoint(saved)  # type: ignore[arg-type]
    logger.finalize("success")
    assert "wandb_artifact" not in read_run(tmp_path)
    wandb.finish()


class Failing(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_POST(self) -> None:
        self.send_response(500)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(params=["refuses", "is silent", "fails"])
def bad_server(request: pytest.FixtureRequest) -> Iterator[int]:
    if request.param == "refuses":
        yield 1
    elif request.param == "is silent":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]
    else:
        with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_port
            server.shutdown()


@pytest.mark.slow
def test_without_network_the_run_is_offline(
    bad_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.teardown()
    monkeypatch.setattr(wandb_connection, "NETWORK_SECONDS", 1)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{bad_server}")
    logger = place(WandbRun(log_model=True), tmp_path)
    reason = r"W&B cannot be reached \([A-Za-z]+Error: .+\); the run is kept offline"
    with pytest.warns(UserWarning, match=reason) as said:
        logger.log_metrics({"val/loss": 1.0}, step=0)
    assert len(said) == 1
    assert not logger.is_online
    wandb.finish()
    wandb.teardown()
    (part,) = offline_runs(tmp_path)
    assert part.curve("val/loss") == [(0, 1.0)]
    # What was left of the attempt is the same run to `wandb sync`, not an empty one beside it.
    assert {path.stem for path in tmp_path.glob("wandb/*/*.wandb")} == {f"run-{part.run.run_id}"}


def test_settings_that_wandb_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()
    monkeypatch.setenv("WANDB_BASE_URL", "somewhere")
    with pytest.raises(InputError, match=r"^W&B refuses its setting base_url: .*WANDB_BASE_URL"):
        place(WandbRun(), tmp_path).log_metrics({"val/loss": 1.0}, step=0)


@pytest.mark.slow
def test_pictures_of_a_classifier_and_given_settings(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    rows = [{"text": ("bad ", "good ")[i % 2] * 4, "label": "ab"[i % 2]} for i in range(60)]
    (project / "input.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = (project / "tiny.yaml").read_text().replace("input.txt", "input.jsonl")
    config = config.replace("LanguageModeling", "SequenceClassification")
    config = config.replace("TextDataModule", "ClassificationDataModule")
    (project / "tiny.yaml").write_text(config.replace("block_size: 16", "block_size: 64"))
    flags = (
        "--trainer.logger=lit_gpt_kit.loggers.wandb.WandbRun",
        "--trainer.logger.log_model=true",
        "--trainer.logger.tags=[mine]",
        "--trainer.callbacks+=lit_gpt_kit.callbacks.gradient_norms.GradientNorms",
    )
    result = run(project, *FIT, *flags)
    assert result.status == 0, result.err
    (part,) = offline_runs(project / "one")
    validations = [x for x, _ in part.curve("val/accuracy")]
    assert len(validations) == 2
    for name in ("roc", "precision_recall", "confusion", "calibration"):
        assert [x for x, _ in part.curve(f"val/{name}")] == validations
    assert part.summary["best/val/accuracy"] == max(y for _, y in part.curve("val/accuracy"))
    assert len(part.curve("train/grad_norm/attention")) == 6
    assert list(part.run.tags) == ["mine"]
    assert [artifact.type for artifact in part.artifacts] == ["config"]  # no weights offline

"""`lit-gpt fit | validate | test | predict`: the run folder, continuing, and what is said."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer

from lit_gpt_kit import LanguageModeling, load_model
from tests.cli.conftest import FinishedRun
from tests.command import TEXT, Result, run, run_process
from tests.run_dir import METRICS, only_run, read_metrics, without_speed

FIT = ("fit", "--config", "tiny.yaml")
QUIET = "--trainer.logger=false"


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return content


def said(result: Result, name: str) -> str:
    """What stands behind `name:` in what a command printed."""
    found = re.search(rf"^ *{re.escape(name)}: (.+)$", result.out, re.M)
    assert found, result.out
    return found[1]


# ---- the run folder ----


def test_run_folder_holds_what_is_promised(finished: FinishedRun) -> None:
    assert sorted(path.name for path in finished.run_dir.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "run.json",
        "samples.md",
        "wandb",
    ]
    checkpoints = sorted(path.name for path in (finished.run_dir / "checkpoints").iterdir())
    assert checkpoints == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_latest_points_to_the_run(finished: FinishedRun) -> None:
    latest = finished.project / "runs" / "tiny" / "latest"
    assert latest.resolve() == finished.run_dir.resolve()


def test_metrics_have_a_row_a_logged_step(finished: FinishedRun) -> None:
    rows = read_metrics(finished.run_dir)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]) == {"step", *METRICS}
    assert all(not math.isnan(row[name]) for row in rows for name in METRICS if "val" not in name)
    for name in ("val/loss", "val/perplexity", "val/bits_per_byte"):
        assert [not math.isnan(row[name]) for row in rows] == [False, False, True] * 2
    assert [row["train/tokens"] for row in rows] == [64, 128, 192, 256, 320, 384]
    # A warm-up of two steps, then half a cosine from step 2 to step 6.
    factors = [1 / 3, 2 / 3, *(0.5 + 0.5 * math.cos(math.pi * i / 4) for i in range(4))]
    assert [row["train/lr"] for row in rows] == pytest.approx([0.01 * f for f in factors])


def test_metrics_agree_with_each_other(finished: FinishedRun) -> None:
    rows = read_metrics(finished.run_dir)
    assert rows[0]["train/loss"] == pytest.approx(math.log(257), rel=0.02)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] - 0.5
    for row in (rows[2], rows[5]):
        assert row["val/perplexity"] == pytest.approx(math.exp(row["val/loss"]), rel=1e-5)


def test_checkpoints_are_the_last_and_the_best(finished: FinishedRun) -> None:
    last = torch.load(finished.checkpoint, weights_only=True)
    best = torch.load(finished.run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    rows = read_metrics(finished.run_dir)
    best_step = min((row for row in rows if row["val/loss"] > 0), key=lambda r: r["val/loss"])
    assert last["global_step"] == 6
    assert best["global_step"] == best_step["step"]


def test_best_is_not_simply_the_newest(project: Path) -> None:
    rising = ("--model.optimizer.lr=3", "--model.lr_schedule=null")
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    result = run(project, *FIT, *rising, logger, "--trainer.logger.save_dir=logs")
    assert result.status == 0, result.err
    rows = read_metrics(only_run(project))
    assert rows[2]["val/loss"] < rows[5]["val/loss"]
    checkpoints = only_run(project) / "checkpoints"
    steps = [
        torch.load(checkpoints / name, weights_only=True)["global_step"]
        for name in ("best.ckpt", "last.ckpt")
    ]
    assert steps == [3, 6]


def test_config_holds_everything_resolved(finished: FinishedRun) -> None:
    config = yaml.safe_load((finished.run_dir / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 6
    assert config["trainer"]["accumulate_grad_batches"] == 1  # never written by a person
    gpt = config["model"]["init_args"]["gpt"]
    assert (gpt["num_layers"], gpt["embed_dim"], gpt["position"]) == (3, 16, "learned")
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
    assert config["data"]["init_args"]["sources"] == ["input.txt"]
    assert config["seed_everything"] == 0
    assert not set(config) & {"config", "run_dir", "ckpt_path"}


def test_flags_override_the_file(finished: FinishedRun) -> None:
    model, _ = load_model(finished.run_dir)
    assert model.config.num_layers == len(model.blocks) == 3  # the file says 2


def test_wandb_run_is_offline_for_who_is_not_logged_in(finished: FinishedRun) -> None:
    latest = finished.run_dir / "wandb" / "latest-run"
    assert latest.resolve().name.startswith("offline-run-")
    (log,) = latest.glob("*.wandb")
    assert log.stat().st_size > 1000


# ---- repeating and continuing ----


def test_run_is_repeated_from_its_own_config(project: Path) -> None:
    first = run(project, *FIT, "--model.gpt.num_layers=3")
    (project / "tiny.yaml").unlink()
    again = run(project, "fit", "--config", "runs/tiny/latest/config.yaml")
    assert again.status == 0, again.err
    one, two = sorted(path for path in (project / "runs/tiny").iterdir() if path.name != "latest")
    assert said(first, "run folder") == f"runs/tiny/{one.name}"
    assert said(again, "run folder") == f"runs/tiny/{two.name}"
    assert without_speed(one) == without_speed(two)
    assert (one / "config.yaml").read_text() == (two / "config.yaml").read_text()


def test_last_goes_on_in_the_same_folder(project: Path) -> None:
    run(project, *FIT)
    folder = only_run(project)
    before = without_speed(folder)
    result = run(project, *FIT, "--ckpt_path=last", "--trainer.max_steps=9")
    assert result.status == 0, result.err
    assert "going on after step 6" in result.out
    assert only_run(project) == folder
    rows = without_speed(folder)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 10)]
    assert rows[:6] == before
    assert rows[8]["train/tokens"] == str(9 * 64)
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9


def test_named_run_goes_on(finished: FinishedRun, project: Path) -> None:
    result = run(
        project,
        "fit",
        f"--config={finished.run_dir}/config.yaml",
        f"--ckpt_path={finished.checkpoint}",
        "--run_dir=mine",
        "--trainer.max_steps=8",
        f"--data.sources=[{finished.project}/input.txt]",
    )
    assert "going on after step 6" in result.out
    assert [row["step"] for row in read_metrics(project / "mine")] == [7, 8]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ([], [0.5 + 0.5 * math.cos(math.pi * i / 6) for i in (4, 5)]),
        (["--model.lr_schedule=null"], [1.0, 1.0]),  # the checkpoint's rate fell to 0
    ],
)
def test_typed_flag_wins_over_the_checkpoints(
    schedule: list[str], factors: list[float], project: Path
) -> None:
    run(project, *FIT, QUIET)
    flags = ["--trainer.max_steps=8", "--model.optimizer.lr=0.5", *schedule]
    result = run(project, *FIT, "--ckpt_path=last", *flags)
    assert result.status == 0, result.err
    rows = read_metrics(only_run(project))
    assert [row["train/lr"] for row in rows] == pytest.approx([0.5 * factor for factor in factors])


def test_run_folder_is_never_written_over(finished: FinishedRun) -> None:
    before = (finished.run_dir / "metrics.csv").read_bytes()
    complaint = run(finished.project, *FIT, f"--run_dir={finished.run_dir}").complaint
    assert "holds a run already; add --ckpt_path last" in complaint
    assert (finished.run_dir / "metrics.csv").read_bytes() == before


# ---- what is said ----


def test_before_training_it_says_what_it_will_do(finished: FinishedRun) -> None:
    model, _ = load_model(finished.run_dir)
    result = finished.result
    num_tokens = 40 * len(TEXT) + 1
    num_train = int(num_tokens * 0.9)
    assert said(result, "model") == (
        f"GPT with {model.num_parameters():,} parameters: 3 layers, 2 heads, width 16, block 16, "
        "vocabulary 257"
    )
    assert said(result, "data") == (
        f"{num_train:,} tokens to train on, {num_tokens - num_train:,} to validate on, from "
        "input.txt"
    )
    assert said(result, "training") == (
        f"6 steps of 64 tokens ({6 * 64 / num_train:.1f} epochs), 32-true on cpu"
    )
    assert said(result, "run folder") == f"runs/tiny/{finished.run_dir.name}"


def test_after_training_it_says_what_came_of_it(finished: FinishedRun) -> None:
    result, last = finished.result, read_metrics(finished.run_dir)[-1]
    assert re.search(r"^done: 6 steps in 0:00:\d\d$", result.out, re.M)
    for name in ("train/loss", "val/loss", "val/perplexity", "val/bits_per_byte"):
        assert float(said(result, name)) == pytest.approx(last[name], abs=1e-4)


def test_sample_is_what_the_model_writes(finished: FinishedRun) -> None:
    task = LanguageModeling.load_from_checkpoint(finished.checkpoint)
    text = task.generate("", max_new_tokens=100, temperature=0.8, top_k=50, seed=0)
    sample = finished.result.out.partition("sample at step 6:\n")[2].partition("\n\ndone:")[0]
    lines = [f"  | {line}" for line in text.strip("\n").splitlines()]
    assert "".join(sample.split()) == "".join("\n".join(lines).split())


def test_next_command_works_as_it_stands(finished: FinishedRun) -> None:
    program, *arguments = shlex.split(said(finished.result, "next"))
    assert program == "lit-gpt"
    assert arguments[:2] == ["generate", f"runs/tiny/{finished.run_dir.name}"]
    assert arguments[2] == "--prompt"
    result = run(finished.project, *arguments)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(arguments[3])
    assert len(result.out) > len(arguments[3]) + 50


# ---- a start that fails, a trial ----


@pytest.mark.parametrize(
    "flag",
    ["--model.gpt.block_size=100000", "--trainer.accelerator=nonesuch", "--model.gpt.vocab_size=9"],
)
def test_failed_start_leaves_no_run(flag: str, project: Path) -> None:
    assert run(project, *FIT, flag).status == 2
    assert [p for p in (project / "runs").rglob("*") if p.name != "tiny"] == []


def test_failed_start_leaves_an_older_folder_as_it_was(project: Path) -> None:
    notes = project / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("keep me")
    assert run(project, *FIT, "--run_dir=mine", "--model.gpt.block_size=100000").status == 2
    assert notes.read_text() == "keep me"


def test_failed_start_leaves_latest_alone(project: Path) -> None:
    run(project, *FIT, QUIET)
    latest = (project / "runs/tiny/latest").readlink()
    assert run(project, *FIT, "--model.gpt.block_size=100000").status == 2
    assert (project / "runs/tiny/latest").readlink() == latest


def test_trial_writes_nothing(project: Path) -> None:
    result = run(project, *FIT, "--trainer.fast_dev_run=true")
    assert result.status == 0, result.err
    assert not (project / "runs").exists()


# ---- validate, test, predict ----


@pytest.fixture(scope="module")
def copied(finished: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose newest run is the finished one, for commands that write into it."""
    folder = tmp_path_factory.mktemp("copied")
    (folder / "runs" / "tiny").mkdir(parents=True)
    for name in ("tiny.yaml", "input.txt"):
        (folder / name).write_text((finished.project / name).read_text())
    (folder / "runs" / "tiny" / "latest").symlink_to(finished.run_dir.name)
    checkpoints = folder / "runs" / "tiny" / finished.run_dir.name / "checkpoints"
    checkpoints.mkdir(parents=True)
    best = (finished.run_dir / "checkpoints" / "best.ckpt").read_bytes()
    (checkpoints / "best.ckpt").write_bytes(best)
    return folder


THREE_LAYERS = ("--config", "tiny.yaml", "--model.gpt.num_layers=3")


@pytest.mark.parametrize(("command", "split"), [("validate", "val"), ("test", "test")])
def test_measures_the_best_checkpoint(
    command: str, split: str, copied: Path, finished: FinishedRun
) -> None:
    result = run(copied, command, *THREE_LAYERS)
    assert result.status == 0, result.err
    path = copied / "runs" / "tiny" / finished.run_dir.name / f"{command}.json"
    metrics = json.loads(path.read_text())
    best = min(row["val/loss"] for row in read_metrics(finished.run_dir) if row["val/loss"] > 0)
    assert set(metrics) == {f"{split}/{name}" for name in ("loss", "perplexity", "bits_per_byte")}
    assert metrics[f"{split}/loss"] == pytest.approx(best, rel=1e-6)
    assert float(said(result, f"{split}/loss")) == pytest.approx(best, abs=1e-4)
    name = f"runs/tiny/{finished.run_dir.name}"
    assert f"checkpoint: {name}/checkpoints/best.ckpt" in result.out.splitlines()
    assert f"written to {name}/{command}.json" in result.out


def test_measures_the_best_of_a_configured_model_checkpoint(project: Path) -> None:
    """Whose files are named otherwise, and whose best one is not the last."""
    options = {"monitor": "val/loss", "save_top_k": 2, "filename": "{step}-{val/loss:.3f}"}
    config = yaml.safe_load((project / "tiny.yaml").read_text())
    kind = "lightning.pytorch.callbacks.ModelCheckpoint"
    config["trainer"]["callbacks"] = [{"class_path": kind, "init_args": options}]
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 3.0
    config["model"]["init_args"]["lr_schedule"] = None
    (project / "tiny.yaml").write_text(yaml.safe_dump(config))
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    result = run(project, *FIT, "--run_dir=one", logger, "--trainer.logger.save_dir=logs")
    assert result.status == 0, result.err
    rows = read_metrics(project / "one")
    best = min(row["val/loss"] for row in rows if row["val/loss"] > 0)
    assert rows[2]["val/loss"] == best
    names = sorted(str(path.relative_to(project)) for path in project.rglob("*.ckpt"))
    (file,) = (name for name in names if f"loss={best:.3f}" in name)
    result = run(project, "validate", "--config", "tiny.yaml", "--ckpt_path=one", "--run_dir=two")
    assert float(said(result, "val/loss")) == pytest.approx(best, abs=1e-4)
    assert f"checkpoint: {file}" in result.out.splitlines()
    assert result.err == ""
    written = run(project, "generate", "one", "--prompt=the", "--max_new_tokens=2")
    assert written.err == f"model: {file}\n"


def test_results_go_where_they_are_told(copied: Path) -> None:
    result = run(copied, "validate", *THREE_LAYERS, "--run_dir=results")
    assert result.status == 0, result.err
    assert (copied / "results" / "validate.json").is_file()


def test_predictions_are_the_tasks_own(copied: Path, finished: FinishedRun) -> None:
    result = run(copied, "predict", *THREE_LAYERS, "--model.predict_top_k=3")
    assert result.status == 0, result.err
    path = copied / "runs" / "tiny" / finished.run_dir.name / "predictions.jsonl"
    assert f"written to {path.relative_to(copied)}" in result.out
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    num_val = 40 * len(TEXT) + 1 - int((40 * len(TEXT) + 1) * 0.9)
    num_rows = -(-(num_val - 1) // 16)
    assert [row["row"] for row in rows] == list(range(num_rows))  # and none that fills a batch
    assert f"written to {path.relative_to(copied)}, {num_rows} rows" in result.out

    text = (TEXT * 40).encode()
    ids = [*text, 256][-num_val:][16:33]
    assert rows[1]["input_ids"] == ids[:-1]
    assert rows[1]["targets"] == ids[1:]
    task = LanguageModeling.load_from_checkpoint(finished.run_dir / "checkpoints" / "best.ckpt")
    with torch.no_grad():
        scores = task.eval()(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
    expected = scores[torch.arange(16), torch.tensor(ids[1:])]
    assert rows[1]["log_probs"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert rows[1]["top_ids"][5] == scores.topk(3).indices[5].tolist()
    assert rows[1]["top_log_probs"][5] == pytest.approx(scores.topk(3).values[5].tolist(), abs=1e-4)


# ---- anybody's classes ----


def test_callback_of_lightning_drops_in(project: Path) -> None:
    callback = "lightning.pytorch.callbacks.EarlyStopping"
    flags = [f"--trainer.callbacks+={callback}", "--trainer.callbacks.monitor=val/loss"]
    result = run(project, *FIT, *flags, "--trainer.callbacks.stopping_threshold=100")
    assert result.status == 0, result.err
    assert read_metrics(only_run(project))[-1]["step"] == 3  # the first validation is good enough


def test_configured_checkpoint_stands_for_ours(project: Path) -> None:
    callback = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": "elsewhere", "filename": "mine", "monitor": "train/loss"},
    }
    config = yaml.safe_load((project / "tiny.yaml").read_text())
    config["trainer"]["callbacks"] = [callback]
    (project / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert run(project, *FIT, QUIET).status == 0
    assert (project / "elsewhere" / "mine.ckpt").is_file()
    names = sorted(path.name for path in (only_run(project) / "checkpoints").iterdir())
    assert names == ["last.ckpt", "previous.ckpt"]


def test_configured_logger_stands_beside_metrics_csv(project: Path) -> None:
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    result = run(project, *FIT, logger, "--trainer.logger.save_dir=logs")
    assert result.status == 0, result.err
    (theirs,) = (project / "logs").rglob("metrics.csv")
    assert "val/loss" in theirs.read_text()
    assert len(read_metrics(only_run(project))) == 6
    assert not (only_run(project) / "wandb").exists()


def test_no_logger_logs_nothing(project: Path) -> None:
    assert run(project, *FIT, "--trainer.logger=false").status == 0
    names = sorted(path.name for path in only_run(project).iterdir())
    assert names == ["checkpoints", "config.yaml", "run.json", "samples.md"]


def test_without_checkpoints_nothing_is_saved_and_that_is_said(project: Path) -> None:
    result = run(project, *FIT, "--trainer.enable_checkpointing=false")
    assert result.status == 0, result.err
    assert not list((only_run(project) / "checkpoints").iterdir())
    assert (only_run(project) / "metrics.csv").is_file()
    assert result.out.splitlines()[-1] == (
        "next: nothing was saved to go on with, as trainer.enable_checkpointing says"
    )


def test_strategy_of_lightning_drops_in(project: Path) -> None:
    strategy = "--trainer.strategy=lightning.pytorch.strategies.SingleDeviceStrategy"
    result = run(project, *FIT, QUIET, strategy, "--trainer.strategy.device=cpu")
    assert result.status == 0, result.err
    assert (only_run(project) / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_optimizer_of_torch_drops_in(name: str, project: Path) -> None:
    flags = [f"--model.optimizer=torch.optim.{name}", "--model.optimizer.lr=0.02"]
    result = run(project, *FIT, QUIET, "--trainer.max_steps=2", *flags)
    assert result.status == 0, result.err
    config = yaml.safe_load((only_run(project) / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["class_path"] == f"torch.optim.{name}"


class Squares(LightningModule):
    """Somebody's own module, which knows nothing of this package."""

    def __init__(self, start: float = 3.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(start))

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        assert batch["input_ids"].shape == (4, 8)
        return self.weight**2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def test_plain_lightning_module_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainers: list[Trainer] = []
    monkeypatch.setattr(Squares, "on_train_end", lambda self: trainers.append(self.trainer))
    config = yaml.safe_load((project / "tiny.yaml").read_text())
    config["model"] = {"class_path": f"{__name__}.Squares", "init_args": {"start": 4.0}}
    config["data"]["init_args"]["block_size"] = 8
    (project / "tiny.yaml").write_text(yaml.safe_dump(config))
    result = run(project, *FIT, QUIET)
    assert result.status == 0, result.err
    assert said(result, "model") == "Squares, 1 parameters"
    weight = weights(only_run(project) / "checkpoints" / "last.ckpt")["weight"]
    assert float(weight) == 4.0 * 0.5**6
    assert len(trainers) == 1


# ---- without a terminal ----


def test_process_without_a_terminal_says_plain_lines_only(project: Path) -> None:
    result = run_process(project, *FIT, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    assert result.status == 0, result.err
    assert "\x1b" not in result.out + result.err
    assert "\r" not in result.out + result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("tokenising ")]
    assert [line.split()[:2] for line in lines] == [
        ["step", "1/2"],
        ["step", "2/2"],
        ["step", "2/2"],
    ]
    assert (only_run(project) / "wandb" / "latest-run").exists()

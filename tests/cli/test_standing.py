"""What `fit` says at its end of where the run lies beside the reference of its config."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from lit_gpt_kit.references import matching
from lit_gpt_kit.references.reference import Reference, build_band, read_reference
from tests.benchmarks import references
from tests.command import Result, run, write_project
from tests.run_dir import read_metrics

pytestmark = pytest.mark.slow  # seven short runs
QUIET = ("--trainer.logger=[]", "--trainer.enable_progress_bar=false")


def fit(project: Path, *options: str) -> Result:
    result = run(project, "fit", "--config", "tiny.yaml", *QUIET, *options)
    assert result.status == 0, result.err
    return result


def standing(result: Result) -> list[str]:
    return [line for line in result.out.splitlines() if "expected of" in line]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three seeds, as the benchmark would have made them."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    for seed in (0, 1, 2):
        run_dir = folder / "made" / "tiny" / f"seed{seed}"
        result = fit(folder, f"--seed_everything={seed}", f"--run_dir={run_dir}")
        assert standing(result) == []  # none comes with the package
        (run_dir / references.FINISHED).touch()
    return folder


@pytest.fixture(scope="module")
def reference(project: Path) -> Reference:
    """Of these runs, as the benchmark writes it."""
    options = {"--config": "tiny.yaml", "--runs": "made", "--write": "written"}
    places = [word for key, name in options.items() for word in (key, str(project / name))]
    given = ["--", "--data.sources=[/home/me/input.txt]", "--trainer.limit_val_batches=1.0"]
    references.main([*places, "--seeds", "0", "1", "2", *given])
    text = (project / "written" / "tiny.yaml").read_text()
    assert "/home/me" not in text
    return read_reference("tiny", text)


def test_the_benchmark_keeps_what_the_seeds_gave(project: Path, reference: Reference) -> None:
    assert (reference.num_seeds, reference.tokens_per_step) == (3, 4 * 16)
    assert reference.curves["val/loss"].tokens == (3 * 64, 6 * 64)
    assert reference.curves["train/loss"].tokens == tuple(64 * step for step in range(1, 7))
    assert len(reference.data_fingerprint) == 64
    assert reference.settings["trainer.max_steps"] == 6
    command = "lit-gpt fit --config configs/tiny.yaml --trainer.limit_val_batches=1.0"
    assert reference.provenance["command"] == command
    rows = read_metrics(project / "made" / "tiny" / "seed1")
    assert reference.seeds["val/loss"][1][-1] == pytest.approx(
        float(rows[-1]["val/loss"]), abs=1e-5
    )


def test_fit_says_where_it_lies(
    project: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "load_references", lambda: (reference,))
    (project / "moved.txt").write_text((project / "input.txt").read_text())
    (line,) = standing(fit(project, "--data.sources=[moved.txt]", "--trainer.val_check_interval=2"))
    assert line.startswith("val/loss ")
    assert " after 384 tokens: as expected of tiny (" in line
    assert line.endswith(", from 3 seeds)")

    val = reference.seeds["val/loss"]
    easier = build_band(reference.curves["val/loss"].tokens, [[v - 3 for v in s] for s in val])
    lower = replace(reference, curves={"val/loss": easier})
    monkeypatch.setattr(matching, "load_references", lambda: (lower,))
    (line,) = standing(fit(project))
    assert " after 384 tokens: higher than expected of tiny (" in line
    assert ", outside since 192 tokens; by chance alone one run in 20 is outside" in line


def test_a_run_that_stopped_early_is_compared_as_far_as_it_came(
    project: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_five(timer: Timer, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 5

    monkeypatch.setattr(matching, "load_references", lambda: (reference,))
    monkeypatch.setattr(Timer, "on_train_batch_end", stop_at_five)
    flags = ("--trainer.max_time=00:01:00:00", "--trainer.log_every_n_steps=3")
    (line,) = standing(fit(project, *flags))
    assert " after 320 tokens: " in line
    assert " expected of tiny (" in line


def test_fit_says_nothing_of_a_run_of_its_own(
    project: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "load_references", lambda: (reference,))
    assert standing(fit(project, "--model.optimizer.lr=0.02")) == []
    (project / "other.txt").write_text("another text altogether\n" * 60)
    assert standing(fit(project, "--data.sources=[other.txt]")) == []

"""`lit-gpt tune` by running it, and its search on memories that are told."""

import csv
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from lit_gpt_kit.cli.parsing import without
from lit_gpt_kit.cli.tune import round_to
from lit_gpt_kit.cli.tune_batch import Trial, divisors, even_sizes, search
from tests.command import Result, run
from tests.run_dir import only_run

TUNE = ("tune", "--config", "tiny.yaml")
LR = (*TUNE, "--find=lr", "--num_steps", "30", "--trainer.log_every_n_steps=10")


def next_command(result: Result) -> list[str]:
    (line,) = (line for line in result.out.splitlines() if line.startswith("next: "))
    return shlex.split(line)[1:]


# ---- the learning rate ----


def test_finds_a_rate_and_says_what_to_run(project: Path) -> None:
    muon = ("--model.optimizer=lit_gpt_kit.MuonAdamW", "--model.optimizer.lr=0.5",
            "--model.optimizer.adamw_lr=0.25")  # fmt: skip
    result = run(project, *LR, *muon, "--trainer.accumulate_grad_batches=2")
    assert result.status == 0, result.err
    run_dir = only_run(project)
    assert sorted(path.name for path in run_dir.iterdir()) == ["lr_find.csv", "plots"]
    assert (run_dir / "plots" / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    with (run_dir / "lr_find.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["factor", "lr", "adamw_lr", "loss", "smoothed_loss"]
    assert [float(rows[0][name]) for name in ("factor", "lr", "adamw_lr")] == pytest.approx(
        [0.001, 0.0005, 0.00025]
    )
    assert "step 10/31  train/loss" in result.err
    assert not (project / "runs" / "tiny" / "latest").exists()

    words = next_command(result)
    assert words[:2] == ["lit-gpt", "fit"]
    assert words[-2].startswith("--model.optimizer.lr=")
    lr, adamw_lr = (float(word.partition("=")[2]) for word in words[-2:])
    assert lr == pytest.approx(2 * adamw_lr, rel=0.1)
    assert any(float(row["lr"]) == pytest.approx(lr, rel=0.06) for row in rows)
    again = run(project, *words[1:], "--trainer.fast_dev_run=true")
    assert again.status == 0, again.err


def test_an_optimiser_of_the_default(project: Path) -> None:
    config = (project / "tiny.yaml").read_text().splitlines()
    (project / "tiny.yaml").write_text(
        "\n".join(line for line in config if "optimizer" not in line)
    )
    result = run(project, *LR)
    assert result.status == 0, result.err
    again = run(project, *next_command(result)[1:], "--trainer.fast_dev_run=true")
    assert again.status == 0, again.err


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ((), "--find is missing; give --find lr or --find batch_size"),
        (("--find=lr", "--num_steps=3"), "num_steps=3 must be above 10"),
        (("--find=lr", "--lowest=-1"), "lowest=-1.0 must be above 0 and below highest=100.0"),
        (
            ("--find=lr", "--ckpt_path=last"),
            "--ckpt_path: tuning starts from the beginning; leave it out",
        ),
    ],
)
def test_wrong_flags(project: Path, flags: tuple[str, ...], complaint: str) -> None:
    assert run(project, *TUNE, *flags).complaint == complaint
    assert not list(project.glob("runs/*/*"))


def test_a_loss_that_falls_nowhere(project: Path) -> None:
    result = run(
        project, *LR, "--lowest=1e6", "--highest=1e9", "--trainer.enable_progress_bar=false"
    )
    assert result.status == 2
    last = result.err.splitlines()[-1]
    assert "the loss falls nowhere between --lowest 1e+06 and --highest 1e+09 times" in last


def test_two_digits_are_exact_enough() -> None:
    assert [round_to(value) for value in (0.0123, 0.996, 1234.0)] == [0.012, 1.0, 1200.0]


# ---- the micro-batch ----


@pytest.mark.slow
def test_keeps_the_global_batch(project: Path) -> None:
    batch = "--data.global_batch_tokens=128"
    result = run(project, *TUNE, "--find=batch_size", batch, "--memory=8GiB")
    assert result.status == 0, result.err
    rows = [line.split() for line in result.out.splitlines() if " x " in line]
    assert [(row[0], row[-1]) for row in rows] == [("4", "2"), ("8", "1")]
    assert all(float(row[1]) > 0.1 for row in rows)  # GiB: torch alone takes more
    assert "largest that fits: 8" in result.out
    assert next_command(result) == ["lit-gpt", "fit", "--config", "tiny.yaml", batch,
                                    "--data.batch_size=8"]  # fmt: skip
    assert not list(project.glob("runs/*/*"))


@pytest.mark.slow
def test_too_little_memory_for_a_row(project: Path) -> None:
    accumulated = "--trainer.accumulate_grad_batches=1"
    result = run(project, *TUNE, "--find=batch_size", "--memory=100MiB", "--data.batch_size=1",
                 accumulated)  # fmt: skip
    assert result.complaint == (
        "not even 1 row at a time fits 0.10 GiB; lower block_size or the network's size"
    )
    assert "1 does not fit" in result.out


def told(most: int, seconds: Callable[[int], float] = lambda size: 0.0) -> Callable[[int], Trial]:
    """A device on which `most` rows fit."""

    def try_size(size: int) -> Trial:
        peak = size if size <= most else None
        return Trial(size, peak, size, size, seconds(size))

    return try_size


def tried(sizes: list[int], start: int, most: int) -> list[int]:
    return [trial.batch_size for trial in search(sizes, start, told(most), 30.0)]


@pytest.mark.parametrize("start", [1, 3, 8, 1000, 70000])
@pytest.mark.parametrize("most", [1, 5, 37, 900, 65536])
def test_search_finds_the_largest(start: int, most: int) -> None:
    sizes = even_sizes(2**16)
    trials = search(sizes, start, told(most), 30.0)
    fitting = [trial.batch_size for trial in trials if trial.fits]
    assert max(fitting) == max(size for size in sizes if size <= most)
    assert len({trial.batch_size for trial in trials}) == len(trials) < 40


def test_search_doubles_then_halves_what_is_between() -> None:
    assert tried(even_sizes(1024), 4, 50) == [4, 8, 16, 32, 64, 48, 56]
    assert tried(divisors(96), 4, 50) == [4, 8, 16, 32, 96, 48]
    assert tried(divisors(96), 5, 1000) == [4, 8, 16, 32, 96]


def test_nothing_fits() -> None:
    trials = search([1, 2, 4], 4, told(0), 30.0)
    assert [trial.batch_size for trial in trials] == [4, 1]


def test_nothing_larger_than_what_takes_long() -> None:
    trials = search(even_sizes(1024), 1, told(1000, lambda size: size), 30.0)
    assert trials[-1].batch_size == 32


def test_sizes() -> None:
    assert even_sizes(20) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert all(b / a <= 2 for a, b in pairwise(even_sizes(4096)))


def test_options_that_are_left_out() -> None:
    typed = ["--config", "a.yaml", "--find", "lr", "--memory=3GiB", "--rows", "find", "--find=x"]
    assert without(typed, {"find", "memory"}) == ["--config", "a.yaml", "--rows", "find"]

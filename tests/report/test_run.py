"""A run folder, read."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.report.run import Point, Run, read_runs
from tests.report.made import CONFIG, write_metrics, write_run


def read(folder: Path) -> Run:
    (run,) = read_runs([folder])
    return run


def test_what_a_run_folder_holds(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", facts={"started": "2026-01-02T03:04:05+01:00"})
    (folder / "plots").mkdir()
    for name in ("roc.png", "notes.txt"):
        (folder / "plots" / name).touch()
    (folder / "spikes.csv").write_text("step,loss\n7,9.5\n")
    run = read(folder)
    assert run.config == CONFIG
    assert run.started == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert (run.num_steps, run.num_tokens, run.training_seconds) == (100, 3200, 50.0)
    assert [path.name for path in run.pictures] == ["roc.png"]
    assert run.spikes == [{"step": "7", "loss": "9.5"}]
    assert [(sample.step, sample.prompt_number) for sample in run.samples] == [
        *((100, 0), (100, 1), (50, 0), (50, 1))
    ]


def test_metrics_alone_are_enough(tmp_path: Path) -> None:
    write_metrics(tmp_path, num_steps=3)
    run = read(tmp_path)
    assert (run.config, run.facts, run.samples, run.pictures, run.spikes) == ({}, {}, [], [], [])
    assert [point.value for point in run.curve("train/loss")] == [3.975, 3.95, 3.925]


@pytest.mark.parametrize("text", ["{", "[1]", "a: [", "3"])
def test_damaged_side_files_do_not_keep_the_curves_from_being_seen(
    tmp_path: Path, text: str
) -> None:
    write_metrics(tmp_path)
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_text(text)
    run = read(tmp_path)
    assert (run.config, run.facts, run.num_steps) == ({}, {}, 100)


def test_values_that_are_not_finite_are_no_points(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,a\n1,nan\n2,inf\n3,5\n4,\n")
    assert read(tmp_path).curve("a") == [Point(3, None, 5.0)]


def test_tokens_between_logged_steps_lie_on_a_line(tmp_path: Path) -> None:
    rows = ["4,400,", "5,,1", "6,,2", "8,1200,", "9,,3"]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,train/tokens,val/loss", *rows, ""]))
    run = read(tmp_path)
    # 200 tokens a step between 4 and 8, and so on behind
    assert [point.tokens for point in run.curve("val/loss")] == [600, 800, 1400]


def test_tokens_before_the_first_logged_step_begin_at_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/tokens,val/loss\n0,,9\n2,,3\n4,400,\n")
    assert [point.tokens for point in read(tmp_path).curve("val/loss")] == [0, 200]


def test_a_folder_that_is_named_twice_is_one_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "20260102-030405")
    (tmp_path / "latest").symlink_to(folder.name)
    run = read_runs([folder, tmp_path / "latest", tmp_path / "." / folder.name])[0]
    assert len(read_runs([folder, tmp_path / "latest"])) == 1
    assert run.started == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_names_tell_the_runs_apart(tmp_path: Path) -> None:
    folders = ["x/20260102-030405", "x/20260102-030405-2", "y/20260102-030405", "mine"]
    runs = read_runs([write_run(tmp_path / folder) for folder in folders])
    assert [run.name for run in runs] == folders
    folders = ["a/one/try", "b/one/try", "b/two/try"]
    runs = read_runs([write_run(tmp_path / folder) for folder in folders])
    assert [run.name for run in runs] == folders


def test_a_run_has_the_name_that_it_gave_itself(tmp_path: Path) -> None:
    names = ["mine", "twice", "twice"]
    folders = [
        write_run(tmp_path / c, facts={"name": n}) for c, n in zip("abc", names, strict=True)
    ]
    assert [run.name for run in read_runs(folders)] == ["mine", "b", "c"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"^run folder .*/gone does not exist \(from .*\)$"):
        read(tmp_path / "gone")


def test_a_folder_that_is_no_runs(tmp_path: Path) -> None:
    with pytest.raises(
        MissingFileError,
        match=r"holds no metrics.csv, which `lit-gpt fit` writes into a run folder; name one that",
    ):
        read(tmp_path)


def test_the_folder_above_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "x" / "1")
    with pytest.raises(MissingFileError, match=rf"; did you mean {run}\?$"):
        read(tmp_path / "runs")


def test_a_file(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r")
    with pytest.raises(InputError, match=r"metrics.csv is a file; name the run folder that holds"):
        read(folder / "metrics.csv")


def test_a_run_that_has_logged_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n10,2.5")
    with pytest.raises(InputError, match=r"metrics.csv holds no whole line of metrics; wait for"):
        read(tmp_path)

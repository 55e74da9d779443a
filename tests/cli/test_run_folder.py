"""Where a run goes, what it is called, and which checkpoint a command starts from."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lit_gpt_kit import InputError
from lit_gpt_kit.cli.run_folder import choose_run, point_latest_to, run_name

OTHER_COMMANDS = ["validate", "test", "predict"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(run_dir: str, *checkpoints: str) -> Path:
    folder = Path(run_dir) / "checkpoints"
    folder.mkdir(parents=True)
    for name in checkpoints or ("best.ckpt", "last.ckpt"):
        (folder / name).write_text("")
    point_latest_to(Path(run_dir))
    return Path(run_dir)


def test_new_run_is_named_after_the_time_in_utc() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    run_dir, checkpoint = choose_run("fit", "poem", None, None)
    after = datetime.now(UTC)
    assert checkpoint is None
    assert run_dir.parent == Path("runs/poem")
    time = datetime.strptime(run_dir.name, "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    assert before <= time <= after


def test_runs_of_the_same_second_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Stopped":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("lit_gpt_kit.cli.run_folder.datetime", Stopped)
    names = []
    for _ in range(3):
        run_dir, _ = choose_run("fit", "poem", None, None)
        assert run_dir.is_dir()  # taken at once, so that nobody else takes it
        names.append(run_dir.name)
    assert names == ["20260102-030405", "20260102-030405-2", "20260102-030405-3"]


def test_chosen_folder_is_taken() -> None:
    assert choose_run("fit", "poem", "mine", None) == (Path("mine"), None)


def test_folder_without_a_run_may_be_there_already() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep me")
    assert choose_run("fit", "poem", "mine", None) == (Path("mine"), None)


@pytest.mark.parametrize("holds", ["checkpoints/last.ckpt", "metrics.csv"])
def test_a_run_is_never_written_over(holds: str) -> None:
    path = Path("mine") / holds
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(InputError, match=r"mine holds a run already; add --ckpt_path last"):
        choose_run("fit", "poem", "mine", None)


def test_file_is_no_run_folder() -> None:
    Path("mine").write_text("")
    with pytest.raises(InputError, match="--run_dir mine is a file; name a folder"):
        choose_run("fit", "poem", "mine", None)


def test_last_continues_the_newest_run_in_its_folder() -> None:
    make_run("runs/poem/a")
    newest = make_run("runs/poem/b")
    expected = (newest, newest / "checkpoints" / "last.ckpt")
    assert choose_run("fit", "poem", None, "last") == expected


def test_last_continues_the_named_run() -> None:
    older = make_run("runs/poem/a")
    make_run("runs/poem/b")
    expected = (older, older / "checkpoints" / "last.ckpt")
    assert choose_run("fit", "poem", str(older), "last") == expected


@pytest.mark.parametrize("command", ["fit", *OTHER_COMMANDS])
def test_last_of_a_folder_without_a_run_is_no_other_runs(command: str) -> None:
    make_run("runs/poem/a")
    with pytest.raises(InputError, match="--run_dir runs/poem/b holds no run to continue"):
        choose_run(command, "poem", "runs/poem/b", "last")


def test_named_checkpoint_starts_a_new_folder() -> None:
    run = make_run("runs/poem/a")
    run_dir, checkpoint = choose_run("fit", "poem", None, str(run / "checkpoints" / "last.ckpt"))
    assert run_dir.parent == run.parent
    assert run_dir != run
    assert checkpoint == run / "checkpoints" / "last.ckpt"


def test_a_checkpoint_of_its_own_continues_the_named_run() -> None:
    run = make_run("mine", "last.ckpt", "previous.ckpt")
    previous = run / "checkpoints" / "previous.ckpt"
    assert choose_run("fit", "poem", "mine", str(previous)) == (run, previous)
    assert choose_run("fit", "poem", "mine", str(previous.absolute()))[0] == run
    other = make_run("other") / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match="mine holds a run already; choose another --run_dir"):
        choose_run("fit", "poem", "mine", str(other))


def test_where_the_last_one_is_missing_it_is_the_one_before() -> None:
    run = make_run("mine", "best.ckpt", "previous.ckpt")
    assert choose_run("fit", "poem", "mine", "last")[1] == run / "checkpoints" / "previous.ckpt"
    (run / "checkpoints" / "last.ckpt").write_text("")
    assert choose_run("fit", "poem", "mine", "last")[1] == run / "checkpoints" / "last.ckpt"


def test_named_run_folder_means_its_best_checkpoint() -> None:
    run = make_run("elsewhere")
    assert choose_run("fit", "poem", "mine", "elsewhere") == (
        Path("mine"),
        run / "checkpoints" / "best.ckpt",
    )


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_other_commands_take_the_best_of_the_newest_run(command: str) -> None:
    make_run("runs/poem/a")
    newest = make_run("runs/poem/b")
    assert choose_run(command, "poem", None, None) == (newest, newest / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_other_commands_write_where_they_are_told(command: str) -> None:
    newest = make_run("runs/poem/a")
    expected = (Path("results"), newest / "checkpoints" / "best.ckpt")
    assert choose_run(command, "poem", "results", None) == expected


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_other_commands_read_the_run_they_are_told(command: str) -> None:
    older = make_run("runs/poem/a")
    make_run("runs/poem/b")
    expected = (older, older / "checkpoints" / "best.ckpt")
    assert choose_run(command, "poem", str(older), None) == expected


@pytest.mark.parametrize(
    ("command", "ckpt_path"), [("fit", "last"), *((command, None) for command in OTHER_COMMANDS)]
)
def test_nothing_to_start_from_names_both_remedies(command: str, ckpt_path: str | None) -> None:
    with pytest.raises(InputError, match=r"runs/poem/latest does not exist .* --run_dir.*--ckpt"):
        choose_run(command, "poem", None, ckpt_path)


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_pretrained_is_no_checkpoint_and_a_new_folder(command: str) -> None:
    newest = make_run("runs/poem/a")
    run_dir, checkpoint = choose_run(command, "poem", None, "pretrained")
    assert checkpoint is None
    assert run_dir.parent == newest.parent
    assert run_dir != newest
    assert choose_run(command, "poem", "mine", "pretrained") == (Path("mine"), None)


def test_training_does_not_start_from_pretrained() -> None:
    with pytest.raises(InputError, match=r"before it is trained; fit starts from .*pretrained any"):
        choose_run("fit", "poem", None, "pretrained")


def test_missing_checkpoint_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nonesuch.ckpt does not exist"):
        choose_run("fit", "poem", None, "nonesuch.ckpt")


def test_run_is_named_after_the_first_file() -> None:
    assert run_name(["configs/poem.yaml", "more.yaml"]) == "poem"
    assert run_name([]) == "run"


def test_repeated_run_keeps_its_name() -> None:
    run = make_run("runs/poem/a")
    assert run_name([str(run / "config.yaml")]) == "poem"
    os.chdir(run)
    assert run_name(["config.yaml"]) == "poem"


def test_any_other_config_yaml_is_a_file_like_others() -> None:
    Path("poems").mkdir()
    assert run_name(["poems/config.yaml"]) == "config"


def test_latest_points_to_the_newest_and_moves_with_the_folder() -> None:
    make_run("runs/poem/a")
    make_run("runs/poem/b")
    latest = Path("runs/poem/latest")
    assert latest.readlink() == Path("b")
    Path("runs").rename("moved")
    assert Path("moved/poem/latest/checkpoints/last.ckpt").is_file()
    assert sorted(path.name for path in Path("moved/poem").iterdir()) == ["a", "b", "latest"]


def test_file_system_without_links_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError("links are not supported")

    Path("runs/poem/a").mkdir(parents=True)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    point_latest_to(Path("runs/poem/a"))
    assert not Path("runs/poem/latest").exists()


def test_another_run_is_not_written_over(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        folder = tmp_path / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "last.ckpt").write_bytes(b"weights")
    start = str(tmp_path / "other" / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match="holds a run already; choose another --run_dir"):
        choose_run("fit", "poem", str(tmp_path / "mine"), start)
    run_dir, checkpoint = choose_run("fit", "poem", str(tmp_path / "new"), start)
    assert (run_dir, str(checkpoint)) == (tmp_path / "new", start)

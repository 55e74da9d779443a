"""A run whose last checkpoint is damaged, lost or cannot be written goes on from the one before."""

import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lit_gpt_kit.checkpoints.seal import has_good_seal
from tests.checkpoints.test_seal import small_files
from tests.cli.test_going_on import assert_same_run
from tests.command import run

pytestmark = pytest.mark.slow
FLAGS = ("--trainer.logger=[]", "--model.lr_schedule.total_steps=6", "--model.gpt.dropout=0.1")
ASYNC = (
    "--trainer.plugins=[{class_path: lit_gpt_kit.checkpoints.sealed_io.AsyncSealedCheckpointIO}]",
)


def fit(project: Path, name: str, *flags: str) -> str:
    """A run that saves after each step; a validation follows the third and the sixth."""
    config = yaml.safe_load((project / "tiny.yaml").read_text())
    last = {"class_path": "lit_gpt_kit.callbacks.last_checkpoint.LastCheckpoint"}
    config["trainer"]["callbacks"] = [{**last, "init_args": {"every_n_steps": 1}}]
    (project / "saving.yaml").write_text(yaml.safe_dump(config))
    result = run(project, "fit", "--config=saving.yaml", *FLAGS, f"--run_dir={name}", *flags)
    assert result.status == 0, result.err
    return result.out


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture
def stopped(project: Path) -> Path:
    """A run with a step to go: last.ckpt after step 5, previous.ckpt after 4, best.ckpt after 3."""
    fit(project, "parts", "--trainer.max_steps=5")
    folder = project / "parts" / "checkpoints"
    steps = {
        path.stem: torch.load(path, weights_only=True)["global_step"]
        for path in folder.glob("*.ckpt")
    }
    assert steps == {"last": 5, "previous": 4, "best": 3}
    return folder


@pytest.mark.parametrize(
    ("damaged", "damage", "named", "step"),
    [
        (["last"], alter, "previous", 4),
        (["last", "previous"], cut, "best", 3),
    ],
)
def test_the_command_that_is_named_goes_on_exactly(
    damaged: list[str],
    damage: Callable[[Path], None],
    named: str,
    step: int,
    stopped: Path,
    project: Path,
) -> None:
    for name in damaged:
        damage(stopped / f"{name}.ckpt")
    refused = run(project, "fit", "--config=saving.yaml", "--run_dir=parts", "--ckpt_path=last")
    command = (
        "lit-gpt fit --config parts/config.yaml --run_dir parts "
        f"--ckpt_path parts/checkpoints/{named}.ckpt"
    )
    assert refused.complaint == (
        "parts/checkpoints/last.ckpt is not a whole checkpoint, it was cut short or altered; the "
        f"newest whole one beside it is parts/checkpoints/{named}.ckpt; to continue from it: "
        f"{command}"
    )
    continued = run(project, *shlex.split(command)[1:], "--trainer.max_steps=6")
    assert continued.status == 0, continued.err
    assert f"going on after step {step}" in continued.out
    fit(project, "through")
    assert_same_run(project / "through", project / "parts")
    # What was damaged has not been kept in the place of what was not.
    assert all(has_good_seal(path) for path in stopped.glob("*.ckpt") if path.stem not in damaged)


def test_without_another_one_it_is_said(stopped: Path, project: Path) -> None:
    for path in stopped.glob("*.ckpt"):
        cut(path)
    refused = run(project, "fit", "--config=saving.yaml", "--run_dir=parts", "--ckpt_path=last")
    assert refused.complaint == (
        "parts/checkpoints/last.ckpt is not a whole checkpoint, it was cut short or altered; "
        "there is no whole one beside it"
    )


def test_other_commands_name_it_too(stopped: Path, project: Path) -> None:
    alter(stopped / "best.ckpt")
    refused = run(project, "generate", "parts", "--prompt=a")
    assert refused.complaint.endswith(
        "the newest whole one beside it is parts/checkpoints/last.ckpt"
    )


def test_a_lost_one_is_stood_in_for(stopped: Path, project: Path) -> None:
    (stopped / "last.ckpt").unlink()
    out = fit(project, "parts", "--ckpt_path=last")
    assert "going on after step 4" in out
    fit(project, "through")
    assert_same_run(project / "through", project / "parts")


@pytest.mark.parametrize("plugins", [(), ASYNC], ids=["at once", "by a thread"])
def test_a_full_disk_leaves_the_last_one(
    plugins: tuple[str, ...], stopped: Path, project: Path
) -> None:
    sizes = [path.stat().st_size for path in stopped.glob("*.ckpt")]
    flags = (*FLAGS, *plugins, "--run_dir=parts", "--ckpt_path=last")
    with small_files(min(sizes) // 2):
        refused = run(project, "fit", "--config=saving.yaml", *flags)
    complaint = [line for line in refused.err.splitlines() if line.startswith("lit-gpt: ")]
    assert refused.status == 2
    assert len(complaint) == 1
    assert complaint[0].startswith(
        f"lit-gpt: the disk that holds {project}/parts/checkpoints is full ("
    )
    assert "Traceback" not in refused.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sorted(path.name for path in stopped.iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert "going on after step 5" in fit(project, "parts", "--ckpt_path=last")  # there is room
    fit(project, "through")
    assert_same_run(project / "through", project / "parts")


def test_saving_by_a_thread_changes_nothing(project: Path) -> None:
    fit(project, "through")
    fit(project, "parts", *ASYNC)
    assert_same_run(project / "through", project / "parts")
    # Killed in its last validation it has to go on from the step before.
    (project / "parts" / "checkpoints" / "last.ckpt").unlink()
    assert "going on after step 5" in fit(project, "parts", "--ckpt_path=last", *ASYNC)
    assert_same_run(project / "through", project / "parts")

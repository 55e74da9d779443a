"""A tiny project to run commands in, fresh for each test, or with a run that all may read."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Result, run, write_project
from tests.finetuning_project import save_base, write_finetuning_project


@dataclass(frozen=True)
class FinishedRun:
    """A run of tiny.yaml with three layers; tests read it and write elsewhere."""

    project: Path
    run_dir: Path
    result: Result

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / "checkpoints" / "last.ckpt"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    project = write_project(tmp_path_factory.mktemp("finished"))
    result = run(project, "fit", "--config", "tiny.yaml", "--model.gpt.num_layers=3")
    assert result.status == 0, result.err
    (run_dir,) = (path for path in (project / "runs" / "tiny").iterdir() if path.name != "latest")
    return FinishedRun(project, run_dir, result)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model."""
    return save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def finetuning(tmp_path: Path, base: Path) -> Path:
    """A fresh project to fine-tune that model in."""
    (tmp_path / "base").symlink_to(base)
    return write_finetuning_project(tmp_path)

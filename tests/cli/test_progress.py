"""Progress: plain lines where there is no terminal, a bar where there is one."""

import io
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar
from torch.utils.data import DataLoader

from lit_gpt_kit import GPTConfig, LanguageModeling, WarmupLinear
from lit_gpt_kit.callbacks.throughput import Throughput
from lit_gpt_kit.cli.defaults import complete_callbacks
from lit_gpt_kit.cli.progress import ProgressLines, StepBar
from tests.command import run_in_terminal
from tests.tiny import make_task, make_trainer

CONFIG = GPTConfig(17, num_layers=1, num_heads=2, embed_dim=8, block_size=8)


def batches(count: int) -> "DataLoader[dict[str, torch.Tensor]]":
    ids = torch.randint(17, (count, 2, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": batch, "targets": batch.roll(-1)} for batch in ids]
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


def fit(folder: Path, lines: ProgressLines, max_steps: int = 6, **options: object) -> None:
    trainer = make_trainer(
        folder, max_steps, callbacks=[lines], enable_progress_bar=True, **options
    )
    trainer.fit(make_task(CONFIG), batches(12), batches(2))


def test_a_line_a_logged_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, ProgressLines(), log_every_n_steps=2, limit_val_batches=0)
    out, err = capsys.readouterr()
    assert out == ""
    pattern = r"step (\d)/6  train/loss (\d\.\d{4})  (\d:\d\d:\d\d) left"
    found = [re.fullmatch(pattern, line) for line in err.splitlines()]
    assert all(found)
    assert [match[1] for match in found if match] == ["2", "4", "6"]
    assert found[-1] is not None
    assert found[-1][3] == "0:00:00"


@pytest.mark.parametrize("length", [{"total_tokens": 4 * 16}, {"total_seconds": 3600.0}])
def test_time_left_is_that_of_the_schedule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: dict[str, float]
) -> None:
    task = make_task(CONFIG)
    task.lr_schedule = lambda optimizer: WarmupLinear(optimizer, **length)
    callbacks = [ProgressLines()]
    options = {"max_epochs": 5000, "limit_val_batches": 0, "enable_progress_bar": True}
    max_steps = -1 if "total_tokens" in length else 2
    trainer = make_trainer(tmp_path, max_steps, callbacks=callbacks, **options)
    trainer.fit(task, batches(12))
    last = capsys.readouterr().err.splitlines()[-1]
    # Of an hour two steps are done, and after them the run is over all the same.
    assert last.split()[1] == ("4" if "total_tokens" in length else "2/2")
    assert last.endswith("0:00:00 left")


def test_micro_batches_are_no_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"accumulate_grad_batches": 3, "limit_val_batches": 0}
    fit(tmp_path, ProgressLines(), max_steps=2, **options)
    steps = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert steps == ["1/2", "2/2"]


def bar_of(folder: Path, width: int, path: Path | None = None, **options: object) -> list[str]:
    """The rows of the training's bar in a terminal so wide, one after the other, as it was fit."""
    bar, out = StepBar(), io.StringIO()
    bar._console_kwargs = {"file": out, "width": width, "force_terminal": True}
    settings = {"accumulate_grad_batches": 2, "val_check_interval": 4, **options}
    callbacks = [Throughput(), bar]
    trainer = make_trainer(folder, 5, callbacks=callbacks, enable_progress_bar=True, **settings)
    trainer.fit(make_task(CONFIG), batches(20), batches(2), ckpt_path=path)
    trainer.save_checkpoint(folder / "end.ckpt")
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out.getvalue().replace("\r", "\n"))
    lines = [line.rstrip() for line in text.splitlines()]
    assert all(len(line) <= width for line in lines)
    return [line for line in lines if re.search(r"\d/5 ", line) and "Valid" not in line]


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (
            120,
            r"training 5/5 ━{40} 0:00:00 left [\d,]+ tokens/s loss \d\.\d{3}  val/loss \d\.\d{3}",
        ),
        (80, r"training 5/5 ━+ 0:00:00 left [\d,]+ tokens/s loss \d\.\d{3}  val/loss \d\.\d{3}"),
        (40, r"5/5 ━+ 0:00:00 left loss \d\.\d{3}"),
    ],
)
def test_a_row_of_the_run_as_far_as_there_is_room(tmp_path: Path, width: int, row: str) -> None:
    assert re.fullmatch(row, bar_of(tmp_path, width)[-1])


def test_a_bar_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    make_trainer(tmp_path, 3, accumulate_grad_batches=2).fit(task := make_task(CONFIG), batches(20))
    assert task.trainer is not None
    task.trainer.save_checkpoint(tmp_path / "three.ckpt")
    rows = bar_of(tmp_path, 80, tmp_path / "three.ckpt")
    assert {row.split()[1] for row in rows} <= {"3/5", "4/5", "5/5"}
    assert re.match("training 5/5 ", rows[-1])


def test_a_line_a_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"val_check_interval": 3, "log_every_n_steps": 100, "num_sanity_val_steps": 1}
    fit(tmp_path, ProgressLines(), **options)
    lines = capsys.readouterr().err.splitlines()
    pattern = r"step [36]/6  val/loss \d\.\d{4}  val/perplexity [\d.]+"
    assert [line.split()[1] for line in lines] == ["3/6", "6/6"]  # none for the trial validation
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_large_numbers_are_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Fast(LanguageModeling):
        def on_before_zero_grad(self, optimizer: object) -> None:
            self.log("train/tokens_per_second", 12345.678)

    task = make_task(CONFIG)
    task.__class__ = Fast
    trainer = make_trainer(tmp_path, 2, callbacks=[ProgressLines()], enable_progress_bar=True)
    trainer.fit(task, batches(2))
    assert "train/tokens_per_second 12,346  " in capsys.readouterr().err


def test_disabled_lines_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class OtherRank(ProgressLines):
        """What Lightning does on every rank but the first."""

        def enable(self) -> None:
            self.disable()

    lines = OtherRank()
    lines.disable()
    fit(tmp_path, lines)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, StepBar), (False, ProgressLines)])
def test_terminal_decides_which(
    is_terminal: bool, kind: type[ProgressBar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    callbacks = complete_callbacks([], "fit", tmp_path, make_task(CONFIG), silent=False)
    assert [type(c) for c in callbacks if isinstance(c, ProgressBar)] == [kind]


def test_silence_and_a_bar_of_somebodys_own_are_kept(tmp_path: Path) -> None:
    class Own(ProgressBar):
        pass

    task = make_task(CONFIG)
    silent = complete_callbacks([], "fit", tmp_path, task, silent=True)
    own = complete_callbacks([Own()], "fit", tmp_path, task, silent=False)
    assert not [c for c in silent if isinstance(c, ProgressBar)]
    assert [type(c) for c in own if isinstance(c, ProgressBar)] == [Own]


def test_terminal_gets_a_bar(project: Path) -> None:
    arguments = ("fit", "--config=tiny.yaml", "--trainer.max_steps=3")
    status, chunks = run_in_terminal(project, *arguments, COLUMNS="120")
    shown = b"".join(chunks).decode()
    assert status == 0, shown
    assert "\x1b[" in shown
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    assert "3/3" in text
    assert "step 1/3" not in text
    assert "v_num" not in text
    assert "train/loss" in text
    assert "done: 3 steps" in text

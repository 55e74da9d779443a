"""SampleText: the same prompts at every validation, kept in a file, in W&B, and over a resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_gpt_kit import SampleText
from lit_gpt_kit.errors import InputError
from tests.command import run, write_project
from tests.run_dir import only_run
from tests.tiny import make_trainer


class Counter(LightningModule):
    """Writes how often it was asked, whatever the seed; knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.calls: list[dict[str, Any]] = []
        self.noise: list[float] = []

    def generate(self, prompt: str, max_new_tokens: int, **sampling: Any) -> str:
        assert not self.training
        torch.rand(5)
        self.calls.append({"max_new_tokens": max_new_tokens, **sampling})
        return f" {len(self.calls)} ```"

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.noise.append(float(torch.rand(())))
        loss: Tensor = self.layer(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, callback: SampleText | None, steps: int = 4, **options: Any) -> Counter:
    torch.manual_seed(3)
    module, rows = Counter(), DataLoader(torch.ones(8, 1), batch_size=1)
    settings = {"val_check_interval": 2, "check_val_every_n_epoch": None, **options}
    path = settings.pop("ckpt_path", None)
    trainer: Trainer = make_trainer(
        folder, steps, callbacks=[callback] if callback else [], **settings
    )
    trainer.fit(module, rows, rows, ckpt_path=path)
    trainer.save_checkpoint(folder / "end.ckpt")
    return module


def test_every_prompt_at_every_validation_newest_first(tmp_path: Path) -> None:
    module = fit(tmp_path, SampleText(["a", "b"], max_new_tokens=7, temperature=0.5, seed=9))
    assert module.calls == [
        {"max_new_tokens": 7, "temperature": 0.5, "top_k": 50, "seed": 9} for _ in range(4)
    ]
    page = (tmp_path / "samples.md").read_text()
    assert page == (
        "# Samples\n"
        "\n## Step 4\n\n````text\na 3 ```\n````\n\n````text\nb 4 ```\n````\n"
        "\n## Step 2\n\n````text\na 1 ```\n````\n\n````text\nb 2 ```\n````\n"
    )


def test_training_draws_the_numbers_that_it_would_have_drawn(tmp_path: Path) -> None:
    assert fit(tmp_path, SampleText("a")).noise == fit(tmp_path, None).noise


def test_each_nth_validation_and_nothing_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, SampleText("a", every_n_validations=2, is_shown=False), 8)
    page = (tmp_path / "samples.md").read_text()
    assert [line for line in page.splitlines() if line[:2] == "##"] == ["## Step 8", "## Step 4"]
    assert "sample" not in capsys.readouterr().out


def test_terminal_shows_prompt_and_continuation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, SampleText("once"), 2)
    assert "sample at step 2:\n  | once 1 ```\n" in capsys.readouterr().out


def test_a_run_that_goes_on_keeps_its_samples_and_drops_later_ones(tmp_path: Path) -> None:
    fit(tmp_path, SampleText("a"), 4)
    (tmp_path / "end.ckpt").rename(tmp_path / "four.ckpt")
    fit(tmp_path, SampleText("a"), 8)  # steps that the next one repeats
    fit(tmp_path, SampleText("a"), 6, ckpt_path=tmp_path / "four.ckpt")
    page = (tmp_path / "samples.md").read_text()
    titles = [line for line in page.splitlines() if line[:2] == "##"]
    assert titles == ["## Step 6", "## Step 4", "## Step 2"]
    content = torch.load(tmp_path / "end.ckpt", weights_only=True)
    (state,) = [v for k, v in content["callbacks"].items() if k.startswith("SampleText")]
    assert [row[0] for row in state["rows"]] == [2, 4, 6]


def test_wandb_gets_one_growing_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.finish()
    tables: list[Any] = []
    monkeypatch.setattr(
        WandbLogger, "log_table", lambda self, *args: tables.append(json.dumps(args))
    )
    logger = WandbLogger(save_dir=tmp_path, settings=wandb.Settings(mode="disabled"))
    fit(tmp_path, SampleText("a"), logger=logger)
    rows = [[2, None, "a", " 1 ```"], [4, None, "a", " 2 ```"]]
    columns = ["step", "tokens", "prompt", "text"]
    assert [json.loads(table) for table in tables] == [
        ["samples", columns, rows[:1]],
        ["samples", columns, rows],
    ]
    wandb.finish()


def test_fit_samples_by_default(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    result = run(project, "fit", "--config", "tiny.yaml", "--trainer.logger=false")
    assert result.status == 0, result.err
    page = (only_run(project) / "samples.md").read_text()
    assert page.startswith("# Samples\n\n## Step 6, ")
    assert "sample at step 3:" in result.out


def test_wrong_input_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SampleText: max_new_tokens=0 must be at least 1"):
        SampleText(max_new_tokens=0)
    with pytest.raises(InputError, match="every_n_validations=0 must be at least 1"):
        SampleText(every_n_validations=0)
    with pytest.raises(InputError, match=r"^SampleText: top_k=0 must be at least 1"):
        SampleText(top_k=0)
    with pytest.raises(InputError, match=r"^SampleText: temperature=-1\.0 must be at least 0"):
        SampleText(temperature=-1.0)


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (
            "x" * 500,
            f"the prompt {'x' * 30!r}... has 500 tokens and leaves no room in block_size=16; "
            "shorten it",
        ),
        ("", "a prompt is empty; give it at least one character"),
    ],
)
def test_prompt_that_would_fail_later_is_refused(
    tmp_path: Path, prompt: str, complaint: str
) -> None:
    project = write_project(tmp_path)
    callback = {"class_path": "lit_gpt_kit.SampleText", "init_args": {"prompts": [prompt]}}
    options = [f"--trainer.callbacks={json.dumps([callback])}", "--trainer.logger=false"]
    chars = "--data.tokenizer={kind: char}"
    result = run(project, "fit", "--config", "tiny.yaml", chars, *options)
    assert result.status == 2
    assert result.err.splitlines()[-1] == f"lit-gpt: SampleText: {complaint}"
    assert not (project / "runs").exists()

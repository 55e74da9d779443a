"""Two processes that share the rows of a step are one process with twice the batch."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import run_process
from tests.run_dir import only_run, read_metrics

FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps=5", "--trainer.val_check_interval=5")
DDP = ("--trainer.devices=2", "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy")
GLOO = ("--trainer.strategy.process_group_backend=gloo",)
CSV = ("--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=logs")
ROWS = """\
seed_everything: 0
trainer: {{accelerator: cpu, max_steps: 5, val_check_interval: 5, check_val_every_n_epoch: null,
  log_every_n_steps: 1, accumulate_grad_batches: 2}}
model:
  class_path: lit_gpt_kit.{task}
  init_args:
    gpt: {{num_layers: 2, num_heads: 2, embed_dim: 16, block_size: 128}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
data:
  class_path: lit_gpt_kit.{data}
  init_args: {{sources: [rows.jsonl], tokenizer: {{kind: byte}}, val_fraction: 0.2}}
"""


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(project: Path) -> None:
    two = run_process(project, *FIT, *DDP, *GLOO, "--data.batch_size=4")
    assert two.status == 0, two.err
    shared = only_run(project)  # the other rank made no folder
    assert sorted(path.name for path in shared.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "run.json",
        "samples.md",
        "wandb",
    ]
    assert two.out.count("done: 5 steps") == 1
    assert two.out.count("sample at step 5:") == 1  # rank 0 alone says and writes it
    assert (shared / "samples.md").read_text().count("## Step 5") == 1
    assert "training: 5 steps of 128 tokens" in two.out
    assert "on 2 x cpu" in two.out
    assert two.err.count("step 5/5  train/loss") == 1

    alone = ("--run_dir=alone", "--data.batch_size=8", "--trainer.logger.save_dir=logs")
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    one = run_process(project, *FIT, logger, *alone)
    assert one.status == 0, one.err
    expected, actual = read_metrics(project / "alone"), read_metrics(shared)
    assert [row["step"] for row in actual] == [1, 2, 3, 4, 5]
    for name in ("train/loss", "train/grad_norm", "train/lr", "train/tokens"):
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert actual[-1]["val/loss"] == pytest.approx(expected[-1]["val/loss"], rel=1e-5)


# 27 rows to train on and 6 or 7 to validate on: neither comes out even, in steps of 8.
QUESTIONS = [{"prompt": "q" * (n % 9 + 1), "completion": "a" * (n % 7 + 1)} for n in range(1, 34)]
TEXTS = [{"text": "ab"[n % 2] * (n % 9 + 1), "label": n % 3} for n in range(34)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "data", "rows", "flags"),
    [
        ("LanguageModeling", "InstructionDataModule", QUESTIONS, ()),
        ("LanguageModeling", "InstructionDataModule", QUESTIONS, ("--data.pack=true",)),
        ("SequenceClassification", "ClassificationDataModule", TEXTS, ()),
    ],
    ids=["padded", "packed", "labelled"],
)
def test_rows_of_any_length_give_the_curve_of_one(
    tmp_path: Path, task: str, data: str, rows: list[dict[str, Any]], flags: tuple[str, ...]
) -> None:
    (tmp_path / "rows.yaml").write_text(ROWS.format(task=task, data=data))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = []
    for name, options in (
        ("two", (*DDP, *GLOO, "--data.batch_size=2")),
        ("one", ("--data.batch_size=4",)),
    ):
        run = ("fit", "--config", "rows.yaml", *CSV, *flags, *options, f"--run_dir={name}")
        result = run_process(tmp_path, *run)
        assert result.status == 0, result.err
        curves.append(read_metrics(tmp_path / name))
    two, one = curves
    assert [row["step"] for row in two] == [1, 2, 3, 4, 5]
    for metric in ("train/loss", "train/grad_norm"):
        for ours, theirs in zip(two, one, strict=True):
            assert ours[metric] == pytest.approx(theirs[metric], rel=1e-5), metric
    assert two[-1]["val/loss"] == pytest.approx(one[-1]["val/loss"], rel=1e-5)

"""A run goes on with its own data; with others it says what differs."""

import json
import shutil
from pathlib import Path

import pytest

from tests.command import Result, run

REMEDY = (
    "; give the data that it was trained on, or start a new run from its weights: leave "
    "--ckpt_path out and set model.init_args.pretrained to the checkpoint"
)


@pytest.fixture
def parts(project: Path) -> Path:
    """A run that stopped after step 3 of 6."""
    assert go(project, "--trainer.max_steps=3").status == 0
    return project


def go(project: Path, *flags: str) -> Result:
    config = ("--config=tiny.yaml", "--trainer.logger=[]", "--model.lr_schedule.total_steps=6")
    return run(project, "fit", *config, "--run_dir=parts", *flags)


def test_another_text_is_named(parts: Path) -> None:
    (parts / "other.txt").write_text("the quick brown fox\n" * 100)
    result = go(parts, "--ckpt_path=last", "--data.sources=[other.txt]")
    assert result.complaint == (
        "the checkpoint was trained on other data: sources=['other.txt'] (checkpoint: "
        f"['input.txt']), size=1,800 tokens (checkpoint: 2,376 tokens){REMEDY}"
    )


def test_another_content_of_the_same_length_is_noticed(parts: Path) -> None:
    text = (parts / "input.txt").read_text()
    (parts / "input.txt").write_text(text.replace("fox", "cat", 1))
    assert go(parts, "--ckpt_path=last").complaint == (
        "the checkpoint was trained on other data: the content of the sources has changed" + REMEDY
    )


def test_another_part_for_validation_is_other_data(parts: Path) -> None:
    result = go(parts, "--ckpt_path=last", "--data.val_fraction=0.2")
    assert "trained on other data: size=2,112 tokens (checkpoint: 2,376" in result.complaint


def test_the_same_text_elsewhere_is_the_same_data(parts: Path) -> None:
    (parts / "moved").mkdir()
    shutil.move(parts / "input.txt", parts / "moved" / "text.txt")
    flags = ("--data.sources=[moved/text.txt]", "--trainer.max_steps=6")
    result = go(parts, "--ckpt_path=last", *flags)
    assert result.status == 0, result.err
    assert "going on after step 3" in result.out


def test_other_data_may_be_measured_or_trained_on_anew(parts: Path) -> None:
    (parts / "other.txt").write_text("the quick brown fox\n" * 100)
    flags = ("--config=tiny.yaml", "--run_dir=parts", "--data.sources=[other.txt]")
    result = run(parts, "validate", *flags, "--trainer.logger=false")
    assert result.status == 0, result.err
    flags = ("--data.sources=[other.txt]", "--model.pretrained=parts/checkpoints/last.ckpt")
    config = ("--config=tiny.yaml", "--trainer.logger=[]", "--data.tokenizer=null")
    result = run(parts, "fit", *config, "--run_dir=new", *flags)
    assert result.status == 0, result.err


@pytest.mark.parametrize(
    ("flags", "different"),
    [
        (("--data.batch_size=8", "--seed_everything=1"), "rows_per_step=8 (checkpoint: 4), seed=1"),
        (("--data.batch_size=2", "--trainer.accumulate_grad_batches=2"), None),
    ],
)
def test_another_order_is_said(
    flags: tuple[str, ...],
    different: str | None,
    parts: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    result = go(parts, "--ckpt_path=last", "--trainer.max_steps=4", *flags)
    assert result.status == 0, result.err
    found = [str(w.message) for w in recwarn if str(w.message).startswith("rows come in another")]
    assert len(found) == (1 if different else 0)
    assert all(str(different) in line for line in found)


@pytest.mark.parametrize(
    ("config", "file", "size"),
    [
        ("classify.yaml", "rows.jsonl", "size=28 rows (checkpoint: 32 rows)"),
        ("chat.yaml", "chats.jsonl", "size=34 conversations (checkpoint: 38 conversations)"),
    ],
)
def test_other_rows_are_named(config: str, file: str, size: str, finetuning: Path) -> None:
    def fit(*flags: str) -> Result:
        return run(finetuning, "fit", f"--config={config}", "--run_dir=parts", *flags)

    assert fit("--trainer.max_steps=2").status == 0
    rows = (finetuning / file).read_text().splitlines()
    (finetuning / file).write_text("\n".join(rows[5:]) + "\n")
    complaint = fit("--ckpt_path=last").complaint
    assert complaint == f"the checkpoint was trained on other data: {size}{REMEDY}"
    # Of the same number, but one of them says something else.
    key = "label" if config == "classify.yaml" else "completion"
    changed = {**json.loads(rows[0]), key: "eel"}
    (finetuning / file).write_text("\n".join([json.dumps(changed), *rows[1:]]) + "\n")
    assert "other data: " in fit("--ckpt_path=last").complaint
    (finetuning / file).write_text("\n".join(rows) + "\n")
    assert fit("--ckpt_path=last").status == 0

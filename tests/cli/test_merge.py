"""`lit-gpt merge`, and what else leaves a run with LoRA."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_gpt_kit import load_model
from tests.adapter_files import save_adapter_checkpoint
from tests.cli.conftest import FinishedRun
from tests.command import run

IDS = torch.arange(12)[None]


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    out = model(IDS)
    return torch.as_tensor(getattr(out, "logits", out))


@pytest.fixture
def adapters(finished: FinishedRun, tmp_path: Path) -> Path:
    path = tmp_path / "adapters.ckpt"
    save_adapter_checkpoint(path, finished.checkpoint, rank=2)
    return path


def test_transformers_reads_what_was_merged(
    adapters: Path, finished: FinishedRun, tmp_path: Path
) -> None:
    result = run(tmp_path, "merge", str(adapters), "out")
    assert (result.status, result.err) == (0, "")
    model, _ = load_model(adapters)
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) / 2**20
    assert result.out == (
        f"out: {finished.checkpoint} with what was learned, gpt2 architecture, "
        f"{model.num_parameters():,} parameters in fp32, {size:.1f} MiB\n"
        "next: lit-gpt generate out --prompt 'some text'; or in Python:\n"
        "  from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "  model = AutoModelForCausalLM.from_pretrained('out')\n"
        "  tokenizer = AutoTokenizer.from_pretrained('out')\n"
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(theirs), logits_of(model), rtol=0, atol=1e-4)
    ask = ("--prompt", "the fox", "--temperature=0", "--max_new_tokens=12")
    merged, unmerged = (run(tmp_path, "generate", str(m), *ask) for m in ("out", adapters))
    assert merged == unmerged


def test_a_base_that_moved(adapters: Path, finished: FinishedRun, tmp_path: Path) -> None:
    before = logits_of(load_model(adapters)[0])
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.write_bytes(finished.checkpoint.read_bytes())
    result = run(
        tmp_path, "merge", str(adapters), "out", "--base=elsewhere.ckpt", "--precision=bf16"
    )
    assert "elsewhere.ckpt with what was learned" in result.out
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    after = logits_of(merged.float())
    torch.testing.assert_close(after, before, rtol=0, atol=0.1 * before.std().item())


def test_another_base_is_refused_and_leaves_nothing(
    adapters: Path, finished: FinishedRun, tmp_path: Path
) -> None:
    previous = finished.checkpoint.with_name("previous.ckpt")
    result = run(tmp_path, "merge", str(adapters), "out", f"--base={previous}")
    assert result.complaint.startswith(f"{adapters} holds adapters for another base: the weights")
    assert not (tmp_path / "out").exists()


def test_a_model_without_adapters_is_refused(finished: FinishedRun, tmp_path: Path) -> None:
    result = run(tmp_path, "merge", str(finished.run_dir), "out")
    best = finished.run_dir / "checkpoints" / "best.ckpt"
    assert result.complaint == f"{best} holds a whole model, and no adapters"
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    result = run(tmp_path, "merge", str(adapters), "out")
    assert result.complaint == f"{tmp_path / 'out'} is not empty; name a new folder, or empty it"


# ---- `lit-gpt export --format peft` ----


def test_peft_reads_the_adapters_alone(
    adapters: Path, finished: FinishedRun, tmp_path: Path
) -> None:
    result = run(tmp_path, "export", str(adapters), "out", "--format=peft")
    assert (result.status, result.err) == (0, "")
    first, *rest = result.out.splitlines()
    assert first.startswith(f"out: LoRA of rank 2 for {finished.checkpoint} (gpt2), ")
    assert rest[1:] == [
        "  from peft import PeftModel",
        "  model = PeftModel.from_pretrained(base, 'out')",
    ]
    assert run(tmp_path, "export", str(finished.checkpoint), "base").status == 0
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out")
    expected = logits_of(load_model(adapters)[0])
    torch.testing.assert_close(logits_of(theirs), expected, rtol=0, atol=1e-4)
    back = logits_of(load_model(tmp_path / "out")[0])
    torch.testing.assert_close(back, expected, rtol=0, atol=1e-4)


def test_adapters_are_kept_in_fp32(adapters: Path, tmp_path: Path) -> None:
    flags = ("--format=peft", "--precision=bf16")
    assert run(tmp_path, "export", str(adapters), "out", *flags).complaint == (
        "--precision bf16 is not for adapters, which are kept in fp32"
    )

"""The measurement on a GPU: its arithmetic, and its lines on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from lit_gpt_kit.model.size import count_parameters
from tests.benchmarks import gpu


def test_sizes_are_those_of_gpt2() -> None:
    # 12 layers of 12 x 768^2 weights and 2 gains of 768, one more gain, 50,304 embeddings.
    num_parameters = 12 * (12 * 768**2 + 2 * 768) + 768 + (50304 + 1024) * 768
    assert count_parameters(gpu.SHAPES["124M"]) == num_parameters
    # GPT-2 XL has 1,557,611,200, biases and its own 50,257 tokens included.
    assert count_parameters(gpu.SHAPES["1.5B"]) == pytest.approx(1_557_611_200, rel=1e-3)


def test_without_cuda_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as exit_:
        gpu.main([])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "torch finds no CUDA device here; nothing was measured\n"


@pytest.mark.slow
def test_the_lines_of_the_gpu_run_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    (tmp_path / "page.md").write_text("<!-- table: gpu-speed -->\n<!-- end -->\n")
    how = ["--device", "cpu", "--tiny", "--steps", "2", "--warm_up", "1", "--micro-batch", "2"]
    to = ["--write", f"{tmp_path}/page.md", "--output", f"{tmp_path}/figures.json"]
    places = ["--text", f"{tmp_path}/text.txt", "--threads", "1"]
    gpu.main(["--only", "speed", "--no-compile", *places, *how, *to])
    figures = json.loads((tmp_path / "figures.json").read_text())["speed"]
    page = (tmp_path / "page.md").read_text()
    assert list(figures) == ["124M, `lit-gpt fit`", "124M, bare loop", "1.5B, bare loop"]
    for name, row in figures.items():
        assert row["mfu"] is None
        peak = "-" if "fit" in name else f"{row['peak_bytes'] / 1e9:.1f}"
        assert f"| {name} | 2 | {row['tokens_per_second']:,.0f} | - | {peak} |" in page
    assert page.split("\n\n", 1)[1].removesuffix("\n\n<!-- end -->\n") in capsys.readouterr().out

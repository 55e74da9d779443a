"""The measurement on a GPU: its arithmetic, and its lines on a CPU."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lit_gpt_kit import GPT, GPTConfig
from lit_gpt_kit.model.loss import next_token_loss
from lit_gpt_kit.model.size import count_parameters
from tests.benchmarks import gpu
from tests.benchmarks.flops import dense_bf16_peak, flops_per_token


def test_flops_are_what_torch_counts_and_the_gains_of_norms() -> None:
    config = GPTConfig(
        vocab_size=256, block_size=64, num_layers=3, num_heads=4, embed_dim=64, use_bias=False
    )
    model = GPT(config)
    ids = torch.randint(256, (2, 64))
    # Spelled out, attention does what the formula counts; the fused kernel computes some twice.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        next_token_loss(model.hidden_states(ids), model.lm_head, ids).backward()
    gains = sum(p.numel() for p in model.parameters() if p.ndim < 2)
    counted = counter.get_total_flops() + 6 * gains * ids.numel()
    assert flops_per_token(config) * ids.numel() == counted


def test_flops_of_gpt2_by_hand() -> None:
    # 12 layers of 12 x 768^2 weights and 2 gains of 768, one more gain, 50,304 embeddings.
    num_parameters = 12 * (12 * 768**2 + 2 * 768) + 768 + 50304 * 768
    attention = 12 * 12 * 12 * 64 * 1024
    assert flops_per_token(gpu.SHAPES["124M"]) == 6 * num_parameters + attention
    # GPT-2 XL has 1,557,611,200, biases and its own 50,257 tokens included.
    assert count_parameters(gpu.SHAPES["1.5B"]) == pytest.approx(1_557_611_200, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L40S", None),
    ],
)
def test_a_device_that_is_not_in_the_table_has_no_peak(name: str, peak: float | None) -> None:
    assert dense_bf16_peak(name) == peak


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

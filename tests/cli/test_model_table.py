"""The table of parts against networks that are built."""

import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary

from lit_gpt_kit import GPTConfig, LoRAConfig
from lit_gpt_kit.cli.model_table import (
    PartsTable,
    count_adapters,
    shares_of_parts,
    table_of_parts,
    weights_beside,
)
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import apply_lora
from tests.command import run, write_project

SMALL: dict[str, Any] = {
    "vocab_size": 60, "block_size": 32, "num_layers": 3, "num_heads": 4, "embed_dim": 24,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False,
    "num_kv_heads": 2, "tie_embeddings": False,
}  # fmt: skip


def rows(config: GPTConfig, beside: dict[str, int] | None = None) -> dict[str, list[str]]:
    lines = [re.split(r" {2,}", line.strip()) for line in table_of_parts(config, beside)]
    assert lines[0] == ["part", "shape", "parameters", "share"]
    return {line[0]: line[1:] for line in lines[1:]}


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, {"token embedding": "60 x 24", "positions": "32 x 24",
              "attention": "3 x (24 -> 72, 24 -> 24)", "MLP": "3 x (24 -> 96 -> 24, gelu_tanh)"}),
        (LLAMA, {"attention": "3 x (24 -> 48, 24 -> 24)", "head": "24 -> 60", "norms": "rmsnorm"}),
        ({**LLAMA, "num_experts": 4, "num_active_experts": 2, "expert_dim": 16},
         {"MLP": "3 x 4 experts x (24 -> 16 -> 24, swiglu)"}),
        ({"use_token_shift": True, "value_embedding_layers": (0, 2)},
         {"token shift": "24", "value embeddings": "2 x (60 x 24)"}),
    ],
    ids=["gpt2", "grouped heads", "experts", "looked up"],
)  # fmt: skip
def test_every_part_has_a_shape_and_they_add_up(
    options: dict[str, Any], shapes: dict[str, str]
) -> None:
    config = GPTConfig(**{**SMALL, **options})
    table = rows(config)
    assert {name: table[name][0] for name in shapes} == shapes
    total = GPT(config).num_parameters()
    assert table.pop("all") == [f"{total:,}", "100.0%"]
    assert all(len(row) == 3 for row in table.values())
    assert sum(int(row[1].replace(",", "")) for row in table.values()) == total


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("targets", [("blocks",), ("attention.q", "lm_head")])
def test_adapters_are_those_that_are_built(targets: tuple[str, ...], use_dora: bool) -> None:
    config = GPTConfig(**{**SMALL, **LLAMA})
    lora = LoRAConfig(rank=3, targets=targets, use_dora=use_dora)
    model = apply_lora(GPT(config), lora)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count_adapters(config, lora) == trained
    beside = {"adapters": trained}
    assert rows(config, beside)["adapters"] == [
        f"{trained:,}", f"{trained / (trained + GPT(config).num_parameters()):.1%}"
    ]  # fmt: skip


def test_shares_in_a_line_leave_out_what_is_small() -> None:
    assert shares_of_parts(GPTConfig(vocab_size=50257)) == (
        "MLP 46%, token embedding 31%, attention 23%"
    )


def test_a_foreign_module_gets_lightnings_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(ModelSummary, "on_fit_start", lambda self, *args: asked.append(args))
    PartsTable().on_fit_start(Trainer(logger=False, enable_progress_bar=False), LightningModule())
    assert len(asked) == 1


def test_a_summary_that_is_asked_for_is_the_table(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    options = ("--trainer.max_steps=1", "--trainer.logger=false")
    without = run(project, "fit", "--config", "tiny.yaml", *options)
    assert "      parts: MLP " in without.out
    assert "all  " not in without.out
    flag = "--trainer.enable_model_summary=true"
    result = run(project, "fit", "--config", "tiny.yaml", *options, flag)
    assert result.status == 0, result.err
    assert re.search(r"^part +shape +parameters +share\n(.*\n)*all +[\d,]+  100.0%\n", result.out)
    assert "parts: " not in result.out
    assert "Modules in train mode" not in result.out


def test_a_head_is_told_apart() -> None:
    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            import torch

            self.model, self.head = GPT(GPTConfig(**SMALL)), torch.nn.Linear(24, 2)
            self.extra = torch.nn.Parameter(torch.zeros(5))

    assert weights_beside(Classifier(), GPTConfig(**SMALL)) == {
        "classification head": 50,
        "others": 5,
    }

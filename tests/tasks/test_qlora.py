"""QLoRA: adapters beside a base in four bits, through Lightning's bitsandbytes plugin."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import BitsandbytesPrecision

from lit_gpt_kit import LanguageModeling, TextDataModule, load_model
from lit_gpt_kit.model.head import Head
from lit_gpt_kit.model.lora import LoRAConfig, lora_layers
from tests.quantised import FewBits, Quantised
from tests.tiny import make_trainer
from tests.transformers_models import build, save


def train(folder: Path, plugin: Any, **options: Any) -> LanguageModeling:
    """Twenty steps of adapters on a base that the plugin quantises; saved as adapters.ckpt."""
    # Large enough for blocks of 64 weights, of which bitsandbytes keeps the sizes apart.
    theirs = build("llama", "multi-head", hidden_size=64, intermediate_size=128)
    (folder / "poem.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    data = TextDataModule(
        sources=[str(folder / "poem.txt")], batch_size=4, cache_dir=str(folder / "cache")
    )
    task = LanguageModeling(
        pretrained=str(save(theirs, folder / "base")),
        lora=LoRAConfig(rank=4),
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2),
    )
    trainer = make_trainer(folder, max_steps=20, plugins=plugin, **options)
    trainer.fit(task, data)
    assert trainer.callback_metrics["train/loss"] < 4.0  # from over five and a half
    trainer.save_checkpoint(folder / "adapters.ckpt")
    return task


def check_merged(folder: Path, task: LanguageModeling, device: str) -> None:
    """What was learned, on the base as it was, computes about the same."""
    merged, _ = load_model(folder / "adapters.ckpt", device=device)
    tokens = torch.arange(20, device=device)[None]
    with torch.no_grad():
        quantised, exact = task.network.eval()(tokens).float(), merged(tokens)
    assert (quantised - exact).std() < 0.25 * exact.std()


def test_a_plugin_of_our_own(tmp_path: Path) -> None:
    task = train(tmp_path, FewBits())
    assert {type(layer.base) for layer in lora_layers(task.network).values()} == {Quantised}
    assert {p.dtype for p in task.parameters() if p.requires_grad} == {torch.float32}
    saved = torch.load(tmp_path / "adapters.ckpt", weights_only=True)["state_dict"]
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    check_merged(tmp_path, task, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["nf4", "nf4-dq", "int8-training"])
def test_bitsandbytes(tmp_path: Path, mode: Any) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    plugin = BitsandbytesPrecision(mode=mode)
    task = train(tmp_path, plugin, accelerator="gpu", devices=1)
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    layers = lora_layers(task.network)
    assert layers
    assert all(isinstance(layer.base, kinds) for layer in layers.values())
    assert isinstance(task.network.lm_head, Head)
    check_merged(tmp_path, task, "cuda")

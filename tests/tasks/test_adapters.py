"""Tasks that train adapters: what learns, what is saved, and which base it belongs to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_gpt_kit import (
    ClassificationDataModule,
    InputError,
    LanguageModeling,
    LoRAConfig,
    SequenceClassification,
    TextDataModule,
    load_model,
)
from lit_gpt_kit.checkpoints.fingerprint import fingerprint_weights
from lit_gpt_kit.checkpoints.load import load_adapted
from lit_gpt_kit.checkpoints.native import read_checkpoint, read_description
from lit_gpt_kit.model.lora import lora_layers, merge_lora
from tests.tiny import make_trainer
from tests.transformers_models import build, save

MakeData = Callable[..., TextDataModule]
MakeRows = Callable[..., ClassificationDataModule]
IDS = torch.arange(40)[None] * 7 % 258
RANK4 = LoRAConfig(rank=4)
MESSAGES = [[{"role": "user", "content": text}] for text in ("hi", "fox dog", "a b")]


def adapted(base: Path, lora: Any = RANK4, **options: Any) -> LanguageModeling:
    def adam(params: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=1e-2)

    torch.manual_seed(0)
    settings = {"pretrained": str(base), "lora": lora, "optimizer": adam}
    return LanguageModeling(**{**settings, **options})


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(IDS)
    return out


def fitted(task: Any, data: Any, folder: Path, steps: int = 3, **options: Any) -> Path:
    trainer = make_trainer(folder, steps, **options)
    trainer.fit(task, data)
    trainer.save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt"


@pytest.fixture
def text(make_data: MakeData) -> TextDataModule:
    return make_data(tokenizer=None)


# ---- what learns, and what is saved ----


def test_begins_as_its_base(base: Path) -> None:
    task = adapted(base)
    task.configure_model()
    model, _ = load_model(base)
    torch.testing.assert_close(logits(task), logits(model))


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters_alone_learn_and_are_saved(
    use_dora: bool, base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    task = adapted(base, LoRAConfig(rank=4, use_dora=use_dora))
    path = fitted(task, text, tmp_path)
    trained = {name for name, p in task.named_parameters() if p.grad is not None}
    kinds = (".a", ".b.") + ((".magnitude.",) if use_dora else ())
    assert all(any(kind in name for kind in kinds) for name in trained)
    assert len({name.split(".blocks.")[1].split(".")[0] for name in trained}) == 3
    frozen = load_model(base)[0].state_dict()
    for name, weight in task.network.state_dict().items():
        if "base." in name or "lora" not in name:
            original = frozen.get(name.replace("base.", ""))
            assert original is None or torch.equal(weight, original), name
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"].keys() == trained
    origin = checkpoint["lit_gpt_kit"]["adapter"]
    assert origin["base"] == str(base)
    assert len(origin["base_sha256"]) == 64
    assert path.stat().st_size < (base / "model.safetensors").stat().st_size


def test_head_of_a_classifier_is_saved_with_them(
    base: Path, make_rows: MakeRows, tmp_path: Path
) -> None:
    task = SequenceClassification(pretrained=str(base), lora=RANK4)
    path = fitted(task, make_rows(), tmp_path)
    names = torch.load(path, weights_only=True)["state_dict"].keys()
    trained = {name for name, p in task.named_parameters() if p.grad is not None}
    assert names == trained
    assert "head.weight" in names
    loaded = SequenceClassification.load_from_checkpoint(path)
    last = torch.tensor([39])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IDS, last), task.eval()(IDS, last))


def test_loading_says_nothing_of_the_base(
    base: Path, text: TextDataModule, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = fitted(adapted(base), text, tmp_path)
    recwarn.clear()
    LanguageModeling.load_from_checkpoint(path)
    assert not [str(w.message) for w in recwarn if "keys" in str(w.message)]


def test_frozen_adapters_are_saved_too(base: Path, text: TextDataModule, tmp_path: Path) -> None:
    task = adapted(base, freeze=["blocks.0"])
    path = fitted(task, text, tmp_path)
    assert all(p.grad is None for name, p in task.named_parameters() if ".blocks.0." in name)
    for loaded in (LanguageModeling.load_from_checkpoint(path).network, load_model(path)[0]):
        torch.testing.assert_close(logits(loaded), logits(task), rtol=1e-4, atol=1e-5)


def test_deeper_adapters_learn_slower(base: Path, text: TextDataModule, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(adapted(base, layer_lr_decay=0.5), text)
    groups = trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.005, 0.0025, 0.00125])


# ---- the same model wherever it is loaded ----


@pytest.mark.parametrize(
    "lora",
    [
        RANK4,
        LoRAConfig(rank=2, targets=["attention.q", "mlp.down"]),
        LoRAConfig(rank=4, use_dora=True, use_rslora=True),
    ],
    ids=["all", "some", "dora"],
)
def test_is_the_same_wherever_it_is_loaded(
    lora: LoRAConfig, base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    task = adapted(base, lora)
    path = fitted(task, text, tmp_path)
    expected, before = logits(task), logits(load_model(base)[0])
    assert (expected - before).abs().max() > 0.01
    loaded = LanguageModeling.load_from_checkpoint(path)
    assert torch.equal(logits(loaded), expected)
    beside, _, origin = load_adapted(path)
    assert torch.equal(logits(beside), expected)
    assert origin.lora == lora
    for merged in (load_model(path)[0], merge_lora(beside)):
        torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_base_may_have_moved(text: TextDataModule, tmp_path: Path) -> None:
    base = save(build("llama", "multi-head"), tmp_path / "base")
    task = adapted(base)
    path = fitted(task, text, tmp_path)
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="base does not exist"):
        LanguageModeling.load_from_checkpoint(path)
    loaded = LanguageModeling.load_from_checkpoint(path, pretrained=str(moved))
    assert torch.equal(logits(loaded), logits(task))


def test_adapters_of_adapters(base: Path, text: TextDataModule, tmp_path: Path) -> None:
    first = fitted(adapted(base), text, tmp_path).rename(tmp_path / "first.ckpt")
    second = adapted(first, LoRAConfig(rank=2))
    path = fitted(second, text, tmp_path)
    expected = logits(second)
    assert torch.equal(logits(LanguageModeling.load_from_checkpoint(path)), expected)
    torch.testing.assert_close(logits(load_model(path)[0]), expected, rtol=1e-4, atol=1e-4)


# ---- on which base ----


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name, weight = next(iter(weights.items()))
    save_file({**weights, name: weight + 1e-3}, folder / "model.safetensors", {"format": "pt"})


def go_on(task: Any, data: Any, path: Path) -> None:
    make_trainer(path.parent, 5).fit(task, data, ckpt_path=path, weights_only=True)


def test_other_base_is_refused(base: Path, tied: Path, make_data: MakeData, tmp_path: Path) -> None:
    path = fitted(adapted(base), make_data(tokenizer=None), tmp_path)
    other = save(build("llama", "multi-head"), tmp_path / "other")
    change_weights(other)
    with pytest.raises(InputError, match=rf"belong to {base} \(sha256.*not to pretrained={other} "):
        go_on(adapted(other), make_data(tokenizer=None), path)
    with pytest.raises(InputError, match="the checkpoint holds another network: num_kv_heads"):
        go_on(adapted(tied), make_data(tokenizer=None), path)


def test_changed_base_is_refused(text: TextDataModule, tmp_path: Path) -> None:
    base = save(build("llama", "multi-head"), tmp_path / "base")
    path = fitted(adapted(base), text, tmp_path)
    change_weights(base)
    words = rf"adapters belong to {base} \(sha256 \w{{12}}\), not to pretrained={base} \(\w{{12}}\)"
    with pytest.raises(InputError, match=words):
        go_on(adapted(base), text, path)
    with pytest.raises(InputError, match=words):
        LanguageModeling.load_from_checkpoint(path)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (LoRAConfig(rank=8), r"of another kind: rank=8 \(checkpoint: 4\); use the configuration"),
        (LoRAConfig(rank=4, targets=["mlp"]), r"targets=\('mlp',\) \(checkpoint: \('blocks',\)\)"),
        (LoRAConfig(rank=4, use_dora=True), r"use_dora=True \(checkpoint: False\)"),
    ],
)
def test_other_kind_is_refused(
    lora: LoRAConfig, words: str, base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    path = fitted(adapted(base), text, tmp_path)
    with pytest.raises(InputError, match=words):
        go_on(adapted(base, lora), text, path)


def test_whole_network_is_no_adapters(base: Path, text: TextDataModule, tmp_path: Path) -> None:
    path = fitted(adapted(base, None), text, tmp_path)
    with pytest.raises(InputError, match=r"holds a whole network, no adapters; to adapt it, name"):
        go_on(adapted(base), text, path)


@pytest.mark.parametrize("lora", [None, RANK4], ids=["full", "adapters"])
def test_other_task_is_refused(
    lora: LoRAConfig | None, base: Path, make_data: MakeData, make_rows: MakeRows, tmp_path: Path
) -> None:
    classifier = SequenceClassification(pretrained=str(base), lora=lora)
    path = fitted(classifier, make_rows(), tmp_path)
    with pytest.raises(InputError, match=r"not of a LanguageModeling like this one: head.weight"):
        go_on(adapted(base, lora), make_data(tokenizer=None), path)
    path = fitted(adapted(base, lora), make_data(tokenizer=None), tmp_path)
    with pytest.raises(InputError, match="the checkpoint is of no classification"):
        go_on(SequenceClassification(pretrained=str(base), lora=lora), make_rows(), path)


def test_damaged_checkpoint_misses_an_adapter(
    base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    path = fitted(adapted(base), text, tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    del checkpoint["state_dict"][name]
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=f"{name} is not in the checkpoint, and 0 more differ"):
        LanguageModeling.load_from_checkpoint(path)


def test_adapters_need_a_base() -> None:
    with pytest.raises(InputError, match="lora adapts a model that is there; set pretrained"):
        LanguageModeling(lora=RANK4)


def test_target_that_matches_nothing_lists_the_names(base: Path) -> None:
    with pytest.raises(InputError, match=r"'q_proj' of LoRA matches no layer; there are attention"):
        adapted(base, LoRAConfig(targets=["q_proj"])).configure_model()


# ---- in bfloat16 ----


def losses(base: Path, data: Any, folder: Path, rounds: bool, lora: LoRAConfig) -> list[float]:
    task = adapted(base, lora)
    if not rounds:
        add = task.adapters.add_to  # type: ignore[union-attr]
        task.adapters.add_to = lambda model, is_bf16: add(model, False)  # type: ignore[union-attr, method-assign]
    seen: list[float] = []

    class Losses(LanguageModeling):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(float(self.trainer.callback_metrics["train/loss"]))

    task.__class__ = Losses
    make_trainer(folder, 6, precision="bf16-mixed").fit(task, data)
    kept = {layer.base.weight.dtype for layer in lora_layers(task.network).values()}
    assert kept == {torch.bfloat16 if rounds else torch.float32}
    return seen


def test_frozen_matrices_rounded_once_give_the_same_loss(
    base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    once = losses(base, text, tmp_path, True, RANK4)
    always = losses(base, text, tmp_path, False, RANK4)
    assert len(once) == 6
    assert once[0] == always[0]
    # Gradients that meet at a layer's input are added in bfloat16, and otherwise in float32.
    assert once == pytest.approx(always, rel=1e-4)


def test_frozen_matrices_rounded_once_give_the_same_scores(
    base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    path = fitted(adapted(base), text, tmp_path)
    always, once = (LanguageModeling.load_from_checkpoint(path) for _ in range(2))
    for layer in lora_layers(once.network).values():
        layer.round_base(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(once), logits(always))


def test_dora_keeps_its_matrices(base: Path, text: TextDataModule, tmp_path: Path) -> None:
    task = adapted(base, LoRAConfig(rank=4, use_dora=True))
    fitted(task, text, tmp_path, precision="bf16-mixed")
    kept = {layer.base.weight.dtype for layer in lora_layers(task.network).values()}
    assert kept == {torch.float32}


def test_checkpoint_from_bfloat16_is_exact_on_the_base(
    base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    task = adapted(base)
    path = fitted(task, text, tmp_path, precision="bf16-mixed")
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    loaded = LanguageModeling.load_from_checkpoint(path)
    frozen = load_model(base)[0].state_dict()
    layer = lora_layers(loaded.network)["blocks.0.mlp.down"]
    assert torch.equal(layer.base.weight, frozen["blocks.0.mlp.down.weight"])
    # The one in memory has rounded matrices.
    torch.testing.assert_close(logits(loaded), logits(task), rtol=0.1, atol=0.1)


# ---- generation in the middle of training ----


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_generation_sees_what_has_been_learned(
    precision: str, base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    task = adapted(base)
    answers: list[list[str]] = []
    texts: list[str] = []
    fresh: list[str] = []

    def write(*_: Any) -> None:
        assert task.training
        answers.append(task.answer(MESSAGES, max_new_tokens=6, temperature=0.0))
        texts.append(task.generate("the", max_new_tokens=12, temperature=0.0))
        task.trainer.save_checkpoint(tmp_path / "now.ckpt")
        other = LanguageModeling.load_from_checkpoint(tmp_path / "now.ckpt")
        fresh.append(other.generate("the", max_new_tokens=12, temperature=0.0))
        assert task.training

    task.on_train_batch_end = write  # type: ignore[method-assign, assignment]
    make_trainer(tmp_path, 8, precision=precision).fit(task, text)
    assert len(set(texts)) > 1
    assert len({tuple(answer) for answer in answers}) > 1
    if precision == "32-true":
        assert texts == fresh


def test_generation_changes_nothing_of_training(
    base: Path, make_data: MakeData, tmp_path: Path
) -> None:
    def run(writes: bool) -> Tensor:
        task = adapted(base, LoRAConfig(rank=4, dropout=0.2))
        if writes:
            task.on_train_batch_end = lambda *_: task.generate("the", max_new_tokens=3)  # type: ignore[method-assign, assignment, return-value]
        torch.manual_seed(7)
        make_trainer(tmp_path, 4).fit(task, make_data(tokenizer=None))
        return logits(task)

    assert torch.equal(run(True), run(False))


def test_settings_of_a_checkpoint_are_primitives(
    base: Path, text: TextDataModule, tmp_path: Path
) -> None:
    path = fitted(adapted(base), text, tmp_path)
    settings = torch.load(path, weights_only=True)["hyper_parameters"]
    assert json.loads(json.dumps(settings["lora"]))["rank"] == 4
    assert settings["pretrained"] == str(base)


def test_base_is_pinned_as_it_was_when_it_was_read(text: TextDataModule, tmp_path: Path) -> None:
    base = save(build("llama", "multi-head"), tmp_path / "base")
    read = fingerprint_weights(base)
    task = adapted(base)
    task.on_train_start = lambda: change_weights(base)  # type: ignore[method-assign]
    path = fitted(task, text, tmp_path)
    origin = read_description(read_checkpoint(path)).adapter
    assert origin is not None
    assert origin.base_sha256 == read != fingerprint_weights(base)
    with pytest.raises(InputError, match="holds adapters for another base"):
        load_model(path)

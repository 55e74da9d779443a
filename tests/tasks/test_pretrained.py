"""Tasks that start from a pretrained model: exactly its weights, its tokenizer, its block."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_gpt_kit import (
    GPT,
    GPTConfig,
    InputError,
    LanguageModeling,
    TextDataModule,
    Tokenizer,
    TokenizerConfig,
    load_model,
)
from lit_gpt_kit.checkpoints.native import read_checkpoint, read_description
from lit_gpt_kit.optim.schedules import WarmupCosine
from tests.tiny import make_task, make_trainer
from tests.transformers_models import BLOCK, build, save

MakeData = Callable[..., TextDataModule]
IDS = torch.arange(40)[None] * 7 % 258


def tuned(base: Path, **options: Any) -> LanguageModeling:
    def sgd(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.1)

    return LanguageModeling(**{"pretrained": str(base), "optimizer": sgd, **options})


def logits(task: LanguageModeling) -> Tensor:
    with torch.no_grad():
        out: Tensor = task.eval()(IDS)
    return out


def theirs(**changes: Any) -> Tensor:
    with torch.no_grad():
        return build("llama", "multi-head", **changes)(IDS).logits


def changed(task: LanguageModeling, data: TextDataModule, folder: Path, steps: int = 1) -> set[str]:
    """The weights that some steps moved."""
    trainer = make_trainer(folder, steps)
    before = {}

    def remember() -> None:
        before.update({name: p.detach().clone() for name, p in task.named_parameters()})

    task.on_train_start = remember  # type: ignore[method-assign]
    trainer.fit(task, data)
    return {name for name, p in task.named_parameters() if not torch.equal(before[name], p)}


# ---- where it starts ----


def test_starts_from_exactly_those_weights(base: Path) -> None:
    task = tuned(base)
    task.configure_model()
    torch.testing.assert_close(logits(task), theirs(), rtol=1e-4, atol=1e-4)
    model, _ = load_model(base)
    assert all(
        torch.equal(weight, task.network.state_dict()[name])
        for name, weight in model.state_dict().items()
    )


def test_takes_tokenizer_and_block(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    task = tuned(base)
    assert task.block_size == BLOCK
    data = make_data(tokenizer=None)
    make_trainer(tmp_path, 1).fit(task, data)
    expected = Tokenizer.from_file(base)
    assert data.tokenizer.fingerprint == expected.fingerprint
    assert task.tokenizer is not None
    assert task.tokenizer.fingerprint == expected.fingerprint
    assert data.train_dataloader().batch(0)["input_ids"].shape == (4, BLOCK)


def test_is_trained_in_train_mode(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    task = tuned(base)
    modes = []
    task.on_train_batch_start = lambda *_: modes.append(task.network.blocks.training)  # type: ignore[method-assign]
    make_trainer(tmp_path, 1).fit(task, make_data(tokenizer=None))
    assert modes == [True]


def test_dropout_is_the_runs(base: Path) -> None:
    torch.manual_seed(0)
    task = tuned(base, gpt=GPTConfig(dropout=0.3))
    task.configure_model()
    assert task.gpt.dropout == task.network.config.dropout == 0.3
    torch.testing.assert_close(logits(task), theirs(), rtol=1e-4, atol=1e-4)
    task.train()
    with torch.no_grad():
        first, second = task(IDS), task(IDS)
    assert not torch.allclose(first, second)


def test_another_shape_is_refused(base: Path) -> None:
    with pytest.raises(InputError, match=r"gpt.num_layers=5 is not what pretrained=.* has, 3; le"):
        tuned(base, gpt=GPTConfig(num_layers=5)).configure_model()


def test_another_tokenizer_is_refused(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(tokenizer=TokenizerConfig("bpe", 280))
    with pytest.raises(
        InputError, match=r"tokenizer is not that of pretrained=.*; leave data.init"
    ):
        make_trainer(tmp_path, 1).fit(tuned(base), data)


def test_same_tokenizer_from_a_file_is_not(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(tokenizer=str(base))
    make_trainer(tmp_path, 1).fit(tuned(base), data)


@pytest.mark.parametrize("kind", ["run", "checkpoint"])
def test_starts_from_a_run_of_ours(kind: str, make_data: MakeData, tmp_path: Path) -> None:
    first = make_task(GPTConfig(num_layers=1, num_heads=2, embed_dim=16, block_size=64))
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(first, make_data())
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(path)
    second = tuned(tmp_path / "run" if kind == "run" else path)
    second.configure_model()
    assert torch.equal(logits(second), logits(first))
    assert second.block_size == 64
    assert second.tokenizer is not None


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model .*nonesuch does not exist"):
        tuned(tmp_path / "nonesuch").configure_model()


# ---- what is trained ----


def test_all_weights_learn(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    task = tuned(base)
    moved = changed(task, make_data(tokenizer=None), tmp_path)
    assert moved == {name for name, _ in task.named_parameters()}


def test_patterns_freeze(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    task = tuned(base, freeze=["token_embedding", "model.blocks.[0-1].*"])
    moved = changed(task, make_data(tokenizer=None), tmp_path)
    frozen = ("model.token_embedding.", "model.blocks.0.", "model.blocks.1.")
    assert moved == {name for name, _ in task.named_parameters() if not name.startswith(frozen)}


def test_frozen_weights_are_saved_too(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    task = tuned(base, freeze=["blocks"])
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(task, make_data(tokenizer=None))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = LanguageModeling.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(logits(loaded), logits(task))


def test_pattern_that_matches_nothing_lists_the_names(base: Path) -> None:
    with pytest.raises(InputError, match=r"'bloks' of what to freeze matches no .*attention"):
        tuned(base, freeze=["bloks"]).configure_model()


def test_freezing_all_leaves_nothing(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"freeze=\['\*'\] leaves nothing to train"):
        make_trainer(tmp_path, 1).fit(tuned(base, freeze=["*"]), make_data(tokenizer=None))


def test_deeper_layers_learn_slower(base: Path, make_data: MakeData, tmp_path: Path) -> None:
    def schedule(optimizer: Any) -> WarmupCosine:
        return WarmupCosine(optimizer, warmup_steps=1, total_steps=1000)

    task = tuned(base, layer_lr_decay=0.5, lr_schedule=schedule)
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(task, make_data(tokenizer=None))
    names = {id(p): name for name, p in task.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"]
        for group in trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }
    top = rates["model.lm_head.weight"]
    assert top == pytest.approx(0.1, rel=1e-3)
    for layer, share in {0: 0.125, 1: 0.25, 2: 0.5}.items():
        found = {rate for name, rate in rates.items() if f"blocks.{layer}." in name}
        assert len(found) == 1
        assert found.pop() / top == pytest.approx(share)
    assert rates["model.token_embedding.weight"] / top == pytest.approx(0.0625)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5])
def test_decay_out_of_range(base: Path, value: float) -> None:
    with pytest.raises(InputError, match=f"layer_lr_decay={value} must be above 0 and at most 1"):
        tuned(base, layer_lr_decay=value)


# ---- going on ----


@pytest.fixture
def stopped(make_data: MakeData, tmp_path: Path) -> Path:
    """A checkpoint of full fine-tuning whose base is gone."""
    base = save(build("llama", "multi-head"), tmp_path / "base")
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(tuned(base, gpt=GPTConfig(dropout=0.1)), make_data(tokenizer=None))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    base.rename(tmp_path / "gone")
    return tmp_path / "a.ckpt"


def started(path: Path, **options: Any) -> LanguageModeling:
    """A task as its configuration says, that knows which checkpoint is to come."""
    task = tuned(path.parent / "base", **{"gpt": GPTConfig(dropout=0.1), **options})
    task.start_from(read_description(read_checkpoint(path)))
    return task


def test_checkpoint_needs_no_base(stopped: Path, make_data: MakeData, tmp_path: Path) -> None:
    task, data = started(stopped), make_data(tokenizer=None)
    trainer = make_trainer(tmp_path, 4)
    trainer.fit(task, data, ckpt_path=stopped, weights_only=True)
    assert trainer.global_step == 4
    assert data.tokenizer.fingerprint == Tokenizer.from_file(tmp_path / "gone").fingerprint
    assert task.gpt.dropout == 0.1


def test_without_being_told_it_does(stopped: Path, make_data: MakeData, tmp_path: Path) -> None:
    task = tuned(tmp_path / "base")
    with pytest.raises(InputError, match="base does not exist"):
        make_trainer(tmp_path, 4).fit(
            task, make_data(tokenizer=None), ckpt_path=stopped, weights_only=True
        )


def test_another_dropout_is_told(stopped: Path, make_data: MakeData, tmp_path: Path) -> None:
    task = started(stopped, gpt=GPTConfig(dropout=0.5))
    with pytest.raises(InputError, match=r"dropout=0.5 \(checkpoint: 0.1\)"):
        make_trainer(tmp_path, 4).fit(
            task, make_data(tokenizer=None), ckpt_path=stopped, weights_only=True
        )


def test_weights_can_be_left_out(base: Path) -> None:
    task, whole = tuned(base), tuned(base)
    for weights in base.glob("*.safetensors"):
        weights.rename(base / "aside")
    task.leave_weights_out()
    assert task.block_size == BLOCK
    (base / "aside").rename(base / "model.safetensors")
    ours, theirs = task.load_tokenizer(), whole.load_tokenizer()
    assert ours is not None
    assert theirs is not None
    assert ours.fingerprint == theirs.fingerprint
    assert task.gpt == whole.gpt


def test_weights_left_out_are_of_a_network_that_fits(base: Path) -> None:
    task = tuned(base, gpt=GPTConfig(num_layers=7))
    with pytest.raises(InputError, match="num_layers=7 is not what pretrained="):
        task.leave_weights_out()


def test_tokenizer_of_a_checkpoint_needs_no_text(make_data: MakeData, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1)
    config = GPTConfig(num_layers=1, num_heads=2, embed_dim=16, block_size=8)
    trainer.fit(make_task(config), make_data(tokenizer=TokenizerConfig("bpe", 290)))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    task = make_task(replace(config))
    task.start_from(read_description(read_checkpoint(tmp_path / "a.ckpt")))
    tokenizer = task.load_tokenizer()
    assert tokenizer is not None
    assert tokenizer.vocab_size == 290


def test_checkpoint_of_adapters_is_no_whole_network(
    base: Path, make_data: MakeData, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(tuned(base, lora={"rank": 2}), make_data(tokenizer=None))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"holds adapters alone; give model.init_args.lora"):
        make_trainer(tmp_path, 2).fit(
            tuned(base), make_data(tokenizer=None), ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )


def test_base_is_found_again_wherever_one_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    task = tuned(Path(base.name), lora={"rank": 2})
    monkeypatch.chdir(tmp_path)
    assert task.adapters is not None
    assert task.adapters.base == str(base)


def test_network_of_a_subclass_gets_the_pretrained_weights(base: Path) -> None:
    class Wider(LanguageModeling):
        def build_model(self, config: GPTConfig) -> GPT:
            model = GPT(config)
            model.register_parameter("added", torch.nn.Parameter(torch.ones(3)))
            return model

    task = Wider(pretrained=str(base))
    task.configure_model()
    model, _ = load_model(base)
    state = task.network.state_dict()
    assert torch.equal(state.pop("added"), torch.ones(3))
    assert all(torch.equal(state[name], w) for name, w in model.state_dict().items())

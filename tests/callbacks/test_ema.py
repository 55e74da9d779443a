"""EMAWeights: the average in closed form, shown and saved everywhere, and training untouched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import distribute_tensor, init_device_mesh

from lit_gpt_kit import (
    InputError,
    LanguageModeling,
    LoRAConfig,
    MuonAdamW,
    TextDataModule,
    TokenizerConfig,
    load_model,
)
from lit_gpt_kit.callbacks.ema import EMAWeights
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.checkpoints.native import TRAINED_WEIGHTS, read_checkpoint
from tests.tasks.test_resume import DROPOUT, StopAfter, state
from tests.tiny import make_task, make_trainer

STEPS, DECAY = 13, 0.6
Weights = dict[str, Tensor]
MakeData = Callable[[], TextDataModule]


@pytest.fixture
def make_data(tmp_path: Path) -> MakeData:
    (tmp_path / "poem.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)

    def make() -> TextDataModule:
        sources, cache = [str(tmp_path / "poem.txt")], str(tmp_path / "cache")
        return TextDataModule(
            sources, tokenizer=TokenizerConfig("byte"), batch_size=4, cache_dir=cache
        )

    return make


def weights_of(module: LightningModule) -> Weights:
    return {name: value.clone() for name, value in module.state_dict().items()}


class Note(Callback):
    """Remembers the weights in training and in validation, by the number of steps taken."""

    def __init__(self) -> None:
        self.trained: dict[int, Weights] = {}
        self.validated: dict[int, Weights] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained[0] = weights_of(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.trained[trainer.global_step] = weights_of(pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        self.validated[trainer.global_step] = weights_of(pl_module)


def averages(trained: dict[int, Weights]) -> dict[int, Weights]:
    """In float64, from the definition."""
    average = {name: value.double() for name, value in trained[0].items()}
    found = {}
    for step in range(1, max(trained) + 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        average = {
            name: decay * average[name] + (1 - decay) * value.double()
            for name, value in trained[step].items()
        }
        found[step] = average
    return found


def assert_are(actual: Weights, expected: Weights) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].double(), value, rtol=1e-5, atol=1e-7)


def fit(
    data: TextDataModule, folder: Path, callbacks: list[Callback], ckpt_path: Path | None = None
) -> tuple[LanguageModeling, Weights]:
    """A run with dropout, accumulation, validation and a Muon; and what it ends with."""
    task = make_task(DROPOUT, lambda groups: MuonAdamW(groups, lr=0.02, adamw_lr=1e-2))
    trainer = make_trainer(
        folder, STEPS, callbacks=callbacks, accumulate_grad_batches=2, enable_checkpointing=True,
        val_check_interval=10, check_val_every_n_epoch=None, limit_val_batches=2,
    )  # fmt: skip
    trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    return task, state(task)


def test_is_the_average_of_the_weights_and_leaves_training_alone(
    make_data: MakeData, tmp_path: Path
) -> None:
    without, note, last = Note(), Note(), LastCheckpoint(tmp_path)
    fit(make_data(), tmp_path / "without", [without])
    task, _ = fit(make_data(), tmp_path, [EMAWeights(DECAY), note, last])
    for step, weights in without.trained.items():
        for name, value in weights.items():
            assert torch.equal(value, note.trained[step][name]), (step, name)
    expected = averages(note.trained)
    assert note.validated.keys() == {5, 10}
    for step, weights in note.validated.items():
        assert_are(weights, expected[step])
    assert_are(task.state_dict(), expected[STEPS])
    assert not torch.allclose(
        task.state_dict()["model.norm.weight"], note.trained[STEPS]["model.norm.weight"]
    )
    loaded = LanguageModeling.load_from_checkpoint(tmp_path / "last.ckpt")
    assert_are(loaded.state_dict(), expected[STEPS])
    model, _ = load_model(str(tmp_path / "last.ckpt"))
    assert torch.equal(model.lm_head.weight, loaded.network.lm_head.weight)


@pytest.mark.parametrize("stop", [5, 8])
def test_a_stopped_run_ends_bit_for_bit_alike(
    make_data: MakeData, tmp_path: Path, stop: int
) -> None:
    _, expected = fit(make_data(), tmp_path / "through", [EMAWeights(DECAY)])
    last = LastCheckpoint(tmp_path)
    with pytest.raises(SystemExit):
        fit(make_data(), tmp_path, [EMAWeights(DECAY), last, StopAfter(stop, last)])
    through = LastCheckpoint(tmp_path / "end")
    _, actual = fit(make_data(), tmp_path, [EMAWeights(DECAY), through], tmp_path / "last.ckpt")
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


@pytest.mark.filterwarnings("ignore:step 3 is passed over")
def test_a_step_that_is_passed_over_leaves_the_average(make_data: MakeData, tmp_path: Path) -> None:
    class Spoil(Callback):
        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.global_step == 2:
                next(pl_module.parameters()).grad[0, 0] = float("nan")  # type: ignore[index]

    average = EMAWeights(DECAY)
    shown = Averages(average)
    make_trainer(tmp_path, 4, callbacks=[Spoil(), average, shown]).fit(make_task(), make_data())
    for name, value in shown.after[2].items():
        assert torch.equal(shown.after[3][name], value), name
    assert not torch.equal(shown.after[4]["model.norm.weight"], shown.after[3]["model.norm.weight"])


class Averages(Callback):
    """Remembers the average after each step."""

    def __init__(self, average: EMAWeights) -> None:
        self.average = average
        self.after: dict[int, Weights] = {}

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        values = self.average._others
        self.after[trainer.global_step] = {name: value.clone() for name, value in values.items()}


class SaveInValidation(Callback):
    """Writes a checkpoint in the middle of the second validation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 10:
            trainer.save_checkpoint(self.path)


def test_what_is_saved_in_mid_validation_is_the_same(make_data: MakeData, tmp_path: Path) -> None:
    note, path = Note(), tmp_path / "middle.ckpt"
    fit(make_data(), tmp_path, [EMAWeights(DECAY), note, SaveInValidation(path)])
    checkpoint = read_checkpoint(path)
    assert_are(checkpoint["state_dict"], averages(note.trained)[10])
    trained = checkpoint["callbacks"]["EMAWeights"][TRAINED_WEIGHTS]
    assert len(trained) == len(checkpoint["state_dict"]) - 1  # the head is the embedding
    for name, value in trained.items():
        assert torch.equal(value, note.trained[10][name]), name


def test_adapters_are_averaged_and_saved_alone(make_data: MakeData, tmp_path: Path) -> None:
    last = LastCheckpoint(tmp_path)
    fit(make_data(), tmp_path, [last])
    base = tmp_path / "base.ckpt"
    (tmp_path / "last.ckpt").rename(base)

    def tune(callbacks: list[Callback], ckpt_path: Path | None = None) -> LanguageModeling:
        task = LanguageModeling(pretrained=str(base), lora=LoRAConfig(rank=2))
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path, 6, callbacks=callbacks, enable_checkpointing=True)
        data = make_data()
        data.tokenizer_choice = None
        trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
        return task

    note = Note()
    expected = tune([EMAWeights(DECAY), note, LastCheckpoint(tmp_path / "through")]).state_dict()
    assert_are(expected, averages(note.trained)[6])
    saved = read_checkpoint(tmp_path / "through" / "last.ckpt")
    trained = saved["callbacks"]["EMAWeights"][TRAINED_WEIGHTS]
    assert saved["state_dict"].keys() == trained.keys()
    assert len(trained) < len(expected)
    assert "model.token_embedding.weight" not in trained
    with pytest.raises(SystemExit):
        tune([EMAWeights(DECAY), last, StopAfter(3, last)])
    actual = tune([EMAWeights(DECAY)], tmp_path / "last.ckpt").state_dict()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


def test_a_run_goes_on_with_the_average_or_not_at_all(make_data: MakeData, tmp_path: Path) -> None:
    last = LastCheckpoint(tmp_path)
    note = Note()
    fit(make_data(), tmp_path, [EMAWeights(DECAY), note, last])
    path = tmp_path / "last.ckpt"
    trainer = make_trainer(tmp_path, STEPS + 1)
    with pytest.raises(InputError, match="are an average, and EMAWeights holds those to train on"):
        trainer.fit(make_task(DROPOUT), make_data(), ckpt_path=path, weights_only=True)
    # What is measured is the average, and nothing is missing for that.
    task = make_task(DROPOUT)
    make_trainer(tmp_path, 1).validate(task, make_data(), ckpt_path=path, weights_only=True)
    assert_are(task.state_dict(), averages(note.trained)[STEPS])


def test_refuses_weights_in_shards(tmp_path: Path) -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        module = LightningModule()
        whole = torch.zeros(4, 2)
        shards = distribute_tensor(whole, init_device_mesh("cpu", (1,)))
        module.weight = torch.nn.Parameter(shards)
        with pytest.raises(InputError, match="this strategy shards them; leave the callback out"):
            EMAWeights().on_train_start(make_trainer(tmp_path, 1), module)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_refuses_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(InputError, match=f"decay={decay} must be at least 0 and below 1"):
        EMAWeights(decay)

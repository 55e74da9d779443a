"""What a Trainer's checkpoints go through: sealed, kept twice, and written by a thread if asked."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lit_gpt_kit import InputError, TextDataModule, TokenizerConfig
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.checkpoints import sealed_io
from lit_gpt_kit.checkpoints.seal import has_good_seal
from lit_gpt_kit.checkpoints.sealed_io import AsyncSealedCheckpointIO, SealedCheckpointIO
from tests.tiny import make_task, make_trainer


class Gate:
    """Holds whoever writes a checkpoint until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.open = threading.Event()
        self.was_reached = threading.Event()
        self.writers: list[str] = []
        save = sealed_io.save_sealed

        def hold(*args: Any) -> None:
            self.was_reached.set()
            self.writers.append(threading.current_thread().name)
            assert self.open.wait(60)
            if error is not None:
                raise error
            save(*args)

        monkeypatch.setattr(sealed_io, "save_sealed", hold)


@pytest.fixture
def io() -> Iterator[AsyncSealedCheckpointIO]:
    io = AsyncSealedCheckpointIO()
    yield io
    io.teardown()


@pytest.fixture
def data(tmp_path: Path) -> TextDataModule:
    path = tmp_path / "poem.txt"
    path.write_text("the quick brown fox jumps over the lazy dog and runs away from it\n" * 40)
    cache = str(tmp_path / "cache")
    return TextDataModule([str(path)], tokenizer=TokenizerConfig("byte"), cache_dir=cache)


class RecordWeights(Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        state = trainer.lightning_module.state_dict()
        self.weights[trainer.global_step] = {name: value.clone() for name, value in state.items()}


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("kind", [SealedCheckpointIO, AsyncSealedCheckpointIO])
def test_a_run_leaves_its_last_two_states(
    kind: type[SealedCheckpointIO], tmp_path: Path, data: TextDataModule
) -> None:
    record, options = RecordWeights(), {"limit_val_batches": 0, "enable_checkpointing": True}
    last = LastCheckpoint(tmp_path / "run", every_n_steps=2)
    trainer = make_trainer(tmp_path, 5, callbacks=[record, last], plugins=[kind()], **options)
    trainer.fit(make_task(), data)
    for name, step in (("last.ckpt", 5), ("previous.ckpt", 4)):
        path = tmp_path / "run" / name
        assert has_good_seal(path) is True
        content = load(path)
        assert content["global_step"] == step
        for weight, value in content["state_dict"].items():
            assert torch.equal(value, record.weights[step][weight]), (name, weight)
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_an_altered_checkpoint_is_refused_by_the_trainer(
    tmp_path: Path, data: TextDataModule
) -> None:
    trainer = make_trainer(tmp_path, 2, plugins=[SealedCheckpointIO()])
    trainer.fit(make_task(), data)
    path, altered = tmp_path / "x.ckpt", tmp_path / "altered.ckpt"
    trainer.save_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    again = make_trainer(tmp_path, 3, plugins=[SealedCheckpointIO()])
    with pytest.raises(InputError, match=r"altered.ckpt is not a whole.* beside it is .*x.ckpt"):
        again.fit(make_task(), data, ckpt_path=altered, weights_only=True)


def test_only_last_is_kept_twice(tmp_path: Path) -> None:
    io = SealedCheckpointIO()
    for step in range(3):
        for name in ("best.ckpt", "last.ckpt"):
            io.save_checkpoint({"step": step}, tmp_path / name)
    steps = {path.name: load(path)["step"] for path in tmp_path.iterdir()}
    assert steps == {"best.ckpt": 2, "last.ckpt": 2, "previous.ckpt": 1}
    io.remove_checkpoint(tmp_path / "best.ckpt")
    assert not (tmp_path / "best.ckpt").exists()


def test_what_is_saved_is_the_state_at_the_call(
    io: AsyncSealedCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    weight = torch.arange(4.0)
    state: dict[str, Any] = {
        "weight": weight,
        "counts": {"steps": [1]},
        "moments": [weight.view(2, 2)],
    }
    io.save_checkpoint(state, tmp_path / "x.ckpt")
    weight += 10  # training goes on
    state["counts"]["steps"].append(2)
    assert gate.was_reached.wait(60)
    assert not (tmp_path / "x.ckpt").exists()
    gate.open.set()
    io.teardown()
    saved = load(tmp_path / "x.ckpt")
    assert saved["weight"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert saved["moments"][0].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert saved["counts"] == {"steps": [1]}
    assert gate.writers == ["checkpoint_0"]


def test_tied_weights_are_saved_once(io: AsyncSealedCheckpointIO, tmp_path: Path) -> None:
    weight = torch.randn(1000)
    tied = {"a": weight, "b": weight.detach(), "of its own": weight[:10]}
    io.save_checkpoint(tied, tmp_path / "async.ckpt")
    SealedCheckpointIO().save_checkpoint(tied, tmp_path / "plain.ckpt")
    saved = io.load_checkpoint(tmp_path / "async.ckpt")  # waits
    assert all(torch.equal(value, saved[name]) for name, value in tied.items())
    sizes = [(tmp_path / f"{name}.ckpt").stat().st_size for name in ("async", "plain")]
    assert sizes[0] < sizes[1] + 1000


def test_what_takes_its_place_is_whole_before_one_is_removed(
    io: AsyncSealedCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    SealedCheckpointIO().save_checkpoint({"step": 1}, old)
    gate = Gate(monkeypatch)
    io.save_checkpoint({"step": 2}, new)
    assert gate.was_reached.wait(60)
    threading.Timer(0.1, gate.open.set).start()
    io.remove_checkpoint(old)
    assert new.exists()
    assert not old.exists()


@pytest.mark.parametrize("max_steps", [2, 4], ids=["at the end", "at the next one"])
def test_what_goes_wrong_in_the_thread_reaches_the_run(
    max_steps: int, tmp_path: Path, data: TextDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, InputError("the disk that holds x is full"))
    gate.open.set()
    last = LastCheckpoint(tmp_path / "run", every_n_steps=2)
    options: dict[str, Any] = {"limit_val_batches": 0, "enable_checkpointing": True}
    plugins = [AsyncSealedCheckpointIO()]
    trainer = make_trainer(tmp_path, max_steps, callbacks=[last], plugins=plugins, **options)
    with pytest.raises(InputError, match="the disk that holds x is full"):
        trainer.fit(make_task(), data)
    assert trainer.global_step == max_steps


def test_the_end_of_a_run_waits(
    tmp_path: Path, data: TextDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    class OpenLate(Callback):
        def on_train_end(self, *args: Any) -> None:
            threading.Timer(0.3, gate.open.set).start()

    callbacks = [LastCheckpoint(tmp_path / "run"), OpenLate()]
    options: dict[str, Any] = {"limit_val_batches": 0, "enable_checkpointing": True}
    plugins = [AsyncSealedCheckpointIO()]
    trainer = make_trainer(tmp_path, 2, callbacks=callbacks, plugins=plugins, **options)
    trainer.fit(make_task(), data)
    assert has_good_seal(tmp_path / "run" / "last.ckpt") is True
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == 2


def test_a_run_can_be_saved_after_its_end(
    io: AsyncSealedCheckpointIO, tmp_path: Path, data: TextDataModule
) -> None:
    trainer = make_trainer(tmp_path, 2, plugins=[io])
    trainer.fit(make_task(), data)
    trainer.save_checkpoint(tmp_path / "late.ckpt")
    io.teardown()
    assert load(tmp_path / "late.ckpt")["global_step"] == 2

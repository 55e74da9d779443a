"""Classes of other people: what they override, and what they bring along."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_gpt_kit import InputError, LanguageModeling, TextDataModule, Throughput
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]


class OwnStep(LanguageModeling):
    """A training step as anybody would write it."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["input_ids"]).flatten(0, 1)
        return F.cross_entropy(logits, batch["targets"].flatten())


class OwnHook(LanguageModeling):
    """A hook of Lightning's, without super()."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen = len(optimizer.param_groups)


class Saver(LanguageModeling):
    """save_hyperparameters(), which also takes the optimiser's factory."""

    def __init__(self, width: int = 3, **options: Any) -> None:
        super().__init__(TINY, **options)
        self.save_hyperparameters()


class Foreign(LightningModule):
    """Nothing of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [OwnStep, OwnHook])
def test_a_hook_without_super_still_trains(
    kind: type[LanguageModeling], make_data: MakeData, tmp_path: Path
) -> None:
    task = kind(TINY)
    trainer = make_trainer(tmp_path, 3, gradient_clip_val=1.0)
    trainer.fit(task, make_data())
    assert trainer.global_step == 3
    assert float(trainer.callback_metrics["train/grad_norm"]) > 0
    assert "train/loss" not in trainer.callback_metrics


def test_hyperparameters_that_cannot_be_loaded_are_left_out(
    make_data: MakeData, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(Saver(optimizer=lambda params: torch.optim.SGD(params, lr=0.1)), make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["width"] == 3
    assert "optimizer" not in saved


def test_throughput_leaves_other_batches_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 2, callbacks=[Throughput()])
    trainer.fit(Foreign(), DataLoader(torch.ones(8, 2), batch_size=2))
    assert trainer.global_step == 2
    assert "train/tokens_per_second" not in trainer.callback_metrics


def test_one_cycle_goes_on_exactly(make_data: MakeData, tmp_path: Path) -> None:
    def task() -> LanguageModeling:
        made = make_task(TINY, lambda params: torch.optim.AdamW(params, lr=1e-2))
        made.lr_schedule = lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.02, total_steps=12
        )
        return made

    through = task()
    make_trainer(tmp_path, 9).fit(through, make_data())
    trainer = make_trainer(tmp_path, 5)
    trainer.fit(task(), make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stopped = task()
    make_trainer(tmp_path, 9).fit(
        stopped, make_data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    for name, value in through.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name


def test_an_interrupted_run_leaves_the_seed_as_it_was(make_data: MakeData, tmp_path: Path) -> None:
    class Failing(LanguageModeling):
        def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            if self.trainer.global_step == 2:
                raise RuntimeError("stopped")
            return super().compute_loss(batch)

    torch.manual_seed(7)
    with pytest.raises(RuntimeError, match="stopped"):
        make_trainer(tmp_path, 3).fit(Failing(TINY), make_data())
    assert torch.initial_seed() == 7


def test_tokens_are_counted_whatever_the_loader(tmp_path: Path, make_data: MakeData) -> None:
    data = make_data(block_size=8)
    data.prepare_data()
    data.setup("fit")
    rows: Any = [data.train_dataloader().batch(n) for n in range(4)]
    task = make_task(TINY)
    task.tokenizer = data.tokenizer
    trainer = make_trainer(tmp_path, 4)
    trainer.fit(task, DataLoader(rows, batch_size=None))
    assert float(trainer.callback_metrics["train/tokens"]) == 4 * 4 * 8


def test_a_refused_generate_leaves_training_mode(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task()
    make_trainer(tmp_path, 1).fit(task, make_data())
    task.train()
    for options in ({"temperature": -1.0}, {"prompt": "long " * 100}):
        with pytest.raises(InputError):
            task.generate(**{"prompt": "a", **options})
        assert task.training

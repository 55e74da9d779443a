"""What all tasks share: the step's loss, clipping, seeds, checkpoints that fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_gpt_kit import InputError, LanguageModeling, TextDataModule, TokenizerConfig
from lit_gpt_kit.model.loss import IGNORE_INDEX
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]
VOCAB = replace(TINY, vocab_size=11)


class Rows(LightningDataModule):
    """Given rows, cut into micro-batches."""

    def __init__(self, rows: dict[str, Tensor], batch_size: int) -> None:
        super().__init__()
        self.rows, self.batch_size = rows, batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        starts = range(0, len(self.rows["input_ids"]), self.batch_size)
        batches: Any = [
            {name: rows[start : start + self.batch_size] for name, rows in self.rows.items()}
            for start in starts
        ]
        return DataLoader(batches, batch_size=None)


def uneven_rows() -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(0, 11, (8, TINY.block_size + 1))
    targets = ids[:, 1:].clone()
    for row in range(8):  # from one target in a row to all of them
        targets[row, row + 1 :] = IGNORE_INDEX
    return {"input_ids": ids[:, :-1].contiguous(), "targets": targets}


def sgd(params: Any) -> torch.optim.SGD:
    return torch.optim.SGD(params, lr=1.0)


def gradient_of_one_step(rows: dict[str, Tensor], batch_size: int, folder: Path) -> list[Tensor]:
    task = make_task(VOCAB, sgd)
    task.lr_schedule = None
    before = {}
    accumulate = len(rows["input_ids"]) // batch_size
    trainer = make_trainer(folder, 1, accumulate_grad_batches=accumulate)

    def remember() -> None:
        before.update({n: p.detach().clone() for n, p in task.named_parameters()})

    task.on_train_start = remember  # type: ignore[method-assign]
    trainer.fit(task, Rows(rows, batch_size))
    return [before[name] - p.detach() for name, p in task.named_parameters()]


@pytest.mark.parametrize("batch_size", [8, 4, 2, 1])
def test_accumulation_changes_neither_loss_nor_gradient(batch_size: int, tmp_path: Path) -> None:
    rows = uneven_rows()
    gradients = gradient_of_one_step(rows, batch_size, tmp_path)

    task = make_task(VOCAB, sgd)
    task.configure_model()
    logits = task(rows["input_ids"])
    F.cross_entropy(logits.flatten(0, 1), rows["targets"].flatten()).backward()
    for (name, parameter), gradient in zip(task.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_logged_loss_is_that_of_the_whole_step(tmp_path: Path) -> None:
    rows = uneven_rows()
    task = make_task(VOCAB, sgd)
    trainer = make_trainer(tmp_path, 1, accumulate_grad_batches=4)
    trainer.fit(task, Rows(rows, 2))
    fresh = make_task(VOCAB, sgd)
    fresh.configure_model()
    expected = F.cross_entropy(fresh(rows["input_ids"]).flatten(0, 1), rows["targets"].flatten())
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_clips_a_fused_optimiser_in_bf16(fused: bool, make_data: MakeData, tmp_path: Path) -> None:
    task = make_task(TINY, lambda params: torch.optim.SGD(params, lr=1.0, fused=fused))
    norms = []
    inner = task.optimizer_step

    def spy(epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        inner(epoch, batch_idx, optimizer, closure)
        gradients = [p.grad for p in task.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    task.optimizer_step = spy  # type: ignore[method-assign]
    trainer = make_trainer(tmp_path, 3, precision="bf16-mixed", gradient_clip_val=0.01)
    trainer.fit(task, make_data())
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)
    assert float(trainer.callback_metrics["train/grad_norm"]) > 0.01  # logged as it was


def test_clips_by_value(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task(TINY, sgd)
    trainer = make_trainer(tmp_path, 2, gradient_clip_val=0.001, gradient_clip_algorithm="value")
    trainer.fit(task, make_data())
    largest = max(float(p.grad.abs().max()) for p in task.parameters() if p.grad is not None)
    assert largest == pytest.approx(0.001)


def test_decay_falls_on_matrices_alone() -> None:
    task = make_task(replace(VOCAB, use_bias=True))
    task.configure_model()
    task.lr_schedule = None
    optimizer: Any = task.configure_optimizers()
    decayed, _, rest = optimizer.param_groups
    assert decayed["weight_decay"] > 0
    assert rest["weight_decay"] == 0
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in rest["params"]} == {1}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(task.parameters()))


@pytest.mark.parametrize(
    "name", ["torch.optim.Adam", "torch.optim.AdamW", "torch.optim.RMSprop", "torch.optim.SGD"]
)
def test_any_torch_optimiser_lowers_the_loss(
    name: str, make_data: MakeData, tmp_path: Path
) -> None:
    kind = getattr(torch.optim, name.rpartition(".")[2])
    task = make_task(TINY, lambda params: kind(params, lr=0.5 if "SGD" in name else 1e-2), 30)
    trainer = make_trainer(tmp_path, 30)
    trainer.fit(task, make_data())
    assert float(trainer.callback_metrics["train/loss"]) < 5.0  # ln 257 = 5.55 at the start


def test_configured_values_win_over_a_checkpoints(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task(TINY, lambda params: torch.optim.AdamW(params, lr=1e-2, betas=(0.9, 0.95)))
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(task, make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    task = make_task(TINY, lambda params: torch.optim.AdamW(params, lr=2e-2, betas=(0.8, 0.99)))
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(task, make_data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    group = trainer.optimizers[0].param_groups[0]
    assert group["betas"] == (0.8, 0.99)
    # After three steps the schedule is at factor(3): past the warm-up of 3, near the top.
    assert group["lr"] == pytest.approx(2e-2, rel=0.02)


def test_training_leaves_the_seed_as_it_was(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task(replace(TINY, dropout=0.1))
    torch.manual_seed(7)
    make_trainer(tmp_path, 2).fit(task, make_data())
    assert torch.initial_seed() == 7  # each step set its own


def test_vocabulary_comes_from_the_tokenizer(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task()
    make_trainer(tmp_path, 1).fit(task, make_data())
    assert task.gpt.vocab_size == 257
    assert task.gpt.end_token_id == 256
    assert task.network.lm_head.out_features == 257


def test_unknown_vocabulary_names_both_remedies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set model.init_args.gpt.vocab_size, or train with a"):
        make_trainer(tmp_path, 1).fit(make_task(), Rows(uneven_rows(), 2))


def test_checkpoint_of_another_network_says_what_differs(
    make_data: MakeData, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(make_task(), make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = make_task(replace(TINY, num_layers=3))
    with pytest.raises(InputError, match=r"num_layers=3 \(checkpoint: 2\)"):
        make_trainer(tmp_path, 2).fit(
            other, make_data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )


def test_checkpoint_of_another_tokenizer_is_refused(make_data: MakeData, tmp_path: Path) -> None:
    same_size = replace(TINY, vocab_size=300)
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(make_task(same_size), make_data(tokenizer=TokenizerConfig("bpe", 270)))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="trained with another tokenizer"):
        make_trainer(tmp_path, 2).fit(
            make_task(replace(same_size, end_token_id=0)),
            make_data(tokenizer=TokenizerConfig("bpe", 280)),
            ckpt_path=tmp_path / "a.ckpt",
            weights_only=True,
        )


def test_tokens_seen_go_on_after_a_resume(make_data: MakeData, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(make_task(), make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer = make_trainer(tmp_path, 5)
    trainer.fit(make_task(), make_data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert float(trainer.callback_metrics["train/tokens"]) == 5 * 4 * TINY.block_size


def test_a_subclass_changes_the_loss(make_data: MakeData, tmp_path: Path) -> None:
    class Doubled(LanguageModeling):
        def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            nll, count = super().compute_loss(batch)
            return 2 * nll, count

    plain, doubled = make_trainer(tmp_path, 1), make_trainer(tmp_path, 1)
    plain.fit(make_task(), make_data())
    task = make_task()
    task.__class__ = Doubled
    doubled.fit(task, make_data())
    ratio = doubled.callback_metrics["train/loss"] / plain.callback_metrics["train/loss"]
    assert float(ratio) == pytest.approx(2.0, rel=1e-6)

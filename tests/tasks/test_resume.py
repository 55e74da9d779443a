"""A run stopped at any step and continued is, bit for bit, the run that never stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_gpt_kit import (
    ClassificationDataModule,
    GPTConfig,
    LanguageModeling,
    LoRAConfig,
    SequenceClassification,
    TextDataModule,
)
from lit_gpt_kit.callbacks.last_checkpoint import LastCheckpoint
from lit_gpt_kit.optim.schedules import WarmupCosine
from tests.tiny import TINY, make_task, make_trainer

STEPS = 13
DROPOUT = replace(TINY, dropout=0.2)

MakeData = Callable[..., TextDataModule]
MakeRows = Callable[..., ClassificationDataModule]


class StopAfter(Callback):
    """Interrupts the run after a step, once the checkpoint is written."""

    def __init__(self, step: int, checkpoint: LastCheckpoint) -> None:
        self.step, self.checkpoint = step, checkpoint

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        done = (args[3] + 1) % trainer.accumulate_grad_batches == 0
        if done and trainer.global_step == self.step:
            self.checkpoint.save(trainer)
            raise KeyboardInterrupt


def state(module: LightningModule) -> dict[str, torch.Tensor]:
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    moments = module.trainer.optimizers[0].state_dict()["state"]
    for index, values in moments.items():
        weights |= {f"{name} {index}": value.clone() for name, value in values.items()}
    return weights


def run_through(data: TextDataModule, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    task = make_task(DROPOUT)
    make_trainer(folder, STEPS, **options).fit(task, data)
    return state(task)


def run_with_stop(
    make_data: MakeData, folder: Path, stop: int, data_options: dict[str, Any], **options: Any
) -> dict[str, torch.Tensor]:
    checkpoint = LastCheckpoint(folder)
    callbacks = [checkpoint, StopAfter(stop, checkpoint)]
    options = {"enable_checkpointing": True, **options}
    with pytest.raises(SystemExit):
        make_trainer(folder, STEPS, callbacks=callbacks, **options).fit(
            make_task(DROPOUT), make_data(**data_options)
        )
    torch.manual_seed(12345)  # whatever the new process's random numbers are
    task = make_task(DROPOUT)
    trainer = make_trainer(folder, STEPS, **options)
    trainer.fit(task, make_data(**data_options), ckpt_path=folder / "last.ckpt", weights_only=True)
    assert trainer.global_step == STEPS
    return state(task)


@pytest.mark.parametrize("stop", range(1, STEPS))
@pytest.mark.parametrize(
    ("data_options", "options"),
    [
        pytest.param({}, {"val_check_interval": 5, "check_val_every_n_epoch": None}, id="plain"),
        # 3 x 2 rows a step: an epoch ends in mid-run, several times
        pytest.param({"batch_size": 3}, {"accumulate_grad_batches": 2}, id="accumulation"),
        pytest.param({"batch_size": 70}, {"gradient_clip_val": 0.5}, id="epochs"),
    ],
)
def test_stopped_run_ends_bit_for_bit_alike(
    make_data: MakeData,
    tmp_path: Path,
    stop: int,
    data_options: dict[str, Any],
    options: dict[str, Any],
) -> None:
    expected = run_through(make_data(**data_options), tmp_path / "through", **options)
    actual = run_with_stop(make_data, tmp_path / "stopped", stop, data_options, **options)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


def test_every_step_micro_batch_and_rank_draws_its_own_numbers(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    task = make_task(DROPOUT)
    compute_loss = task.compute_loss

    def draw_first(batch: Any) -> Any:
        drawn.append(float(torch.rand(())))
        return compute_loss(batch)

    monkeypatch.setattr(task, "compute_loss", draw_first)
    for rank in (0, 1):
        share = {"rank": rank, "num_replicas": 2}
        monkeypatch.setattr(
            Trainer, "distributed_sampler_kwargs", property(lambda self, share=share: share)
        )
        trainer = make_trainer(tmp_path, 3, accumulate_grad_batches=2)
        trainer.fit(task, make_data())
    assert len(drawn) == len(set(drawn)) == 2 * 3 * 2


FINETUNING: dict[str, Any] = {
    "gpt": GPTConfig(dropout=0.1),
    "optimizer": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "lr_schedule": lambda opt: WarmupCosine(opt, warmup_steps=3, total_steps=20),
}


def tune(
    make: Callable[[], LightningModule], data: Any, folder: Path, stops: list[int], **options: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Train up to each of the stops, every time in new objects; state and metrics at the end."""
    checkpoint = None
    for stop in stops:
        torch.manual_seed(0 if checkpoint is None else 12345)
        task = make()
        torch.manual_seed(7)  # the run's own seed, which a process is told anew
        trainer = make_trainer(folder, stop, **options)
        trainer.fit(task, data(), ckpt_path=checkpoint, weights_only=True)
        checkpoint = folder / f"{stop}.ckpt"
        trainer.save_checkpoint(checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return state(task), metrics


@pytest.mark.parametrize("kind", ["full", "adapters", "adapters in bf16", "DoRA"])
def test_fine_tuning_goes_on_bit_for_bit(
    kind: str, base: Path, make_data: MakeData, tmp_path: Path
) -> None:
    lora = None if kind == "full" else LoRAConfig(rank=4, dropout=0.3, use_dora=kind == "DoRA")
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    if "bf16" in kind:
        options["precision"] = "bf16-mixed"

    def make() -> LightningModule:
        return LanguageModeling(pretrained=str(base), lora=lora, **FINETUNING)

    def data() -> TextDataModule:
        return make_data(tokenizer=None, batch_size=2)

    expected, metrics = tune(make, data, tmp_path, [9], **options)
    actual, again = tune(make, data, tmp_path, [2, 5, 9], **options)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
    assert metrics == again
    saved = torch.load(tmp_path / "5.ckpt", weights_only=True)["state_dict"]
    assert any(not torch.equal(expected[name], weight) for name, weight in saved.items())


@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=2, dropout=0.2)], ids=["full", "adapters"])
def test_classification_goes_on_bit_for_bit(
    lora: LoRAConfig | None, base: Path, make_rows: MakeRows, tmp_path: Path
) -> None:
    def make() -> LightningModule:
        return SequenceClassification(
            pretrained=str(base), lora=lora, class_weights="balanced", **FINETUNING
        )

    def data() -> ClassificationDataModule:
        return make_rows(batch_size=3)

    options: dict[str, Any] = {"accumulate_grad_batches": 2}
    expected, metrics = tune(make, data, tmp_path, [13], **options)  # 32 rows: the third epoch
    actual, again = tune(make, data, tmp_path, [3, 8, 13], **options)
    assert "head.weight" in actual
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
    assert metrics == again


def test_data_order_goes_on_where_it_stopped(make_data: MakeData, tmp_path: Path) -> None:
    class Record(Callback):
        def __init__(self) -> None:
            self.rows: list[torch.Tensor] = []

        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            self.rows.append(args[1]["input_ids"])

    through, before, after = Record(), Record(), Record()
    make_trainer(tmp_path, 6, callbacks=[through]).fit(make_task(), make_data())
    checkpoint = LastCheckpoint(tmp_path)
    callbacks = [before, checkpoint, StopAfter(4, checkpoint)]
    with pytest.raises(SystemExit):
        make_trainer(tmp_path, 6, callbacks=callbacks, enable_checkpointing=True).fit(
            make_task(), make_data()
        )
    make_trainer(tmp_path, 6, callbacks=[after]).fit(
        make_task(), make_data(), ckpt_path=checkpoint.path, weights_only=True
    )
    assert len(before.rows) == 4
    assert torch.equal(torch.stack(through.rows), torch.stack(before.rows + after.rows))


def test_a_checkpoint_that_does_not_count_its_tokens_counts_from_0(
    make_data: MakeData, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(make_task(), make_data())
    path = tmp_path / "two.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    per_step = content["lit_gpt_kit"].pop("num_tokens_seen") // 2
    torch.save(content, path)
    task = make_task()
    make_trainer(tmp_path, 3).fit(task, make_data(), ckpt_path=path, weights_only=True)
    assert task.num_tokens_seen == per_step > 0

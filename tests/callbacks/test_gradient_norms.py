"""GradientNorms logs what torch.linalg says of the gradient of the whole step."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_gpt_kit import GPT, GPTConfig, LanguageModeling
from lit_gpt_kit.callbacks.gradient_norms import GradientNorms, part_of
from lit_gpt_kit.model.size import count_by_part
from tests.command import run_process, write_project
from tests.run_dir import only_run, read_metrics

SHARDED = (
    "--trainer.devices=2",
    "--trainer.strategy.process_group_backend=gloo",
    "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.tensor_parallel_size=1",
)
CONFIG = GPTConfig(vocab_size=16, block_size=8, num_layers=2, num_heads=2, embed_dim=8)


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows with unequal numbers of targets."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(16, (9,), generator=torch.Generator().manual_seed(index))
        targets = ids[1:].clone()
        targets[: index % 4] = -100
        return {"input_ids": ids[:-1], "targets": targets}


class Logged(Callback):
    """What was logged after each step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.rows.append({n: float(v) for n, v in trainer.callback_metrics.items()})


def fit(task: LightningModule, folder: Path, **options: Any) -> list[dict[str, float]]:
    logged = Logged()
    chosen: dict[str, Any] = {"max_steps": 1, "log_every_n_steps": 1, **options}
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
        callbacks=[GradientNorms(by_layer=chosen.pop("by_layer", False)), logged], **chosen,
    )  # fmt: skip
    trainer.fit(task, torch.utils.data.DataLoader(Rows(), batch_size=2))
    return logged.rows


def by_hand(model: GPT, by_layer: bool) -> dict[str, float]:
    """The norms of the mean loss over the targets of the first four rows."""
    rows = [Rows()[index] for index in range(4)]
    ids, targets = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "targets"))
    logits = model(ids)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients: dict[str, list[torch.Tensor]] = {}
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        gradients.setdefault(part_of(name, by_layer), []).append(weight.grad.flatten())
    return {
        f"train/grad_norm/{part.replace(' ', '_')}": float(torch.linalg.norm(torch.cat(found)))
        for part, found in gradients.items()
    }


@pytest.mark.parametrize("by_layer", [False, True])
def test_norms_are_of_the_whole_step_before_clipping(tmp_path: Path, by_layer: bool) -> None:
    torch.manual_seed(0)
    reference = GPT(CONFIG)
    task = LanguageModeling(gpt=CONFIG)
    task.model = GPT(CONFIG)
    task.model.load_state_dict(reference.state_dict())
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 1e-3, "by_layer": by_layer}
    last = fit(task, tmp_path, **options)[-1]
    norms = {name: norm for name, norm in last.items() if name.startswith("train/grad_norm/")}
    assert norms == pytest.approx(by_hand(reference, by_layer), rel=1e-4)
    assert math.hypot(*norms.values()) == pytest.approx(last["train/grad_norm"], rel=1e-5)
    assert ("train/grad_norm/layer_01/attention" in norms) is by_layer


class Plain(LightningModule):
    """A module of another project: f(w) = w . x, whose gradient is x."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.Parameter(torch.zeros(8))
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        x = torch.arange(8.0)
        return (self.attention * x).sum() + 3 * self.bias[0] + 4 * self.bias[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_any_module_and_only_logged_steps(tmp_path: Path) -> None:
    rows = fit(Plain(), tmp_path, max_steps=4, log_every_n_steps=4)
    assert rows[2] == {}
    expected = {"attention": math.sqrt(140), "other": 5.0}
    assert rows[3] == pytest.approx({f"train/grad_norm/{k}": v for k, v in expected.items()})


def test_parts_are_those_of_the_plan() -> None:
    config = GPTConfig(
        vocab_size=11, block_size=8, num_layers=2, num_heads=2, embed_dim=8, mlp="swiglu",
        use_token_shift=True, value_embedding_layers=(1,), use_qk_norm=True, num_experts=4,
        dense_layers=(0,), norm_placement="both", tie_embeddings=False, use_bias=False,
    )  # fmt: skip
    counts: dict[str, int] = {}
    for name, weight in GPT(config).named_parameters():
        counts[part_of(name)] = counts.get(part_of(name), 0) + weight.numel()
    assert counts == count_by_part(config)


@pytest.mark.slow
def test_shards_have_the_norm_of_the_whole(tmp_path: Path) -> None:
    name = "train/grad_norm/attention"
    callback = "--trainer.callbacks=lit_gpt_kit.callbacks.gradient_norms.GradientNorms"
    fsdp = "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy"
    found = []
    for folder, more in (
        ("one", ("--data.batch_size=8",)),
        ("two", (fsdp, *SHARDED)),
    ):
        project = write_project(tmp_path / folder)
        steps = ("--trainer.max_steps=2", "--trainer.logger=lightning.pytorch.loggers.CSVLogger")
        logs = ("--trainer.logger.save_dir=logs", "--trainer.limit_val_batches=0")
        fit = ("fit", "--config", "tiny.yaml", callback, *steps, *logs, *more)
        result = run_process(project, *fit)
        assert result.status == 0, result.err
        found.append([row[name] for row in read_metrics(only_run(project))])
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], rel=1e-4)

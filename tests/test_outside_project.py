"""Classes of other projects drop into our command, and ours into other people's Lightning code."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_gpt_kit import (
    GPTConfig,
    LanguageModeling,
    TextDataModule,
    Throughput,
    TokenizerConfig,
    WarmupCosine,
)
from tests.command import TEXT, run, run_process
from tests.run_dir import only_run, read_metrics

POEMS = {
    "__init__.py": '"""A project that knows ours, while ours knows nothing of it."""\n',
    "tasks.py": '''
import torch
from lit_gpt_kit import GPT, LanguageModeling


class ScaledGPT(GPT):
    """Learns a factor for what the head reads."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def hidden_states(self, *args, **kwargs):
        return super().hidden_states(*args, **kwargs) * self.scale


class HalvedLoss(LanguageModeling):
    """Halves the training loss."""

    def __init__(self, factor: float = 0.5, **options):
        super().__init__(**options)
        self.factor = factor

    def build_model(self, config):
        return ScaledGPT(config)

    def compute_loss(self, batch):
        nll, count = super().compute_loss(batch)
        return (self.factor * nll if self.training else nll), count
''',
    "data.py": '''
from lit_gpt_kit import TextDataModule, TokenizerConfig
from lit_gpt_kit.tokenization.training import train_tokenizer


class Verses(TextDataModule):
    """Brings a tokenizer of its own."""

    def build_tokenizer(self):
        return train_tokenizer(TokenizerConfig("byte", special_tokens=("<verse>", "<title>")), [])
''',
    "callbacks.py": '''
from pathlib import Path
from lightning.pytorch import Callback


class CountSteps(Callback):
    """Writes down how many steps it saw, over all parts of a run."""

    def __init__(self, path: str):
        self.path, self.count = Path(path), 0

    def on_train_batch_end(self, *args, **kwargs):
        self.count += 1
        self.path.write_text(str(self.count))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
''',
    "optim.py": '''
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class SignSGD(Optimizer):
    """Steps of the same length in every direction."""

    def __init__(self, params, lr: float = 0.1, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "is_sign": True})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())
        return loss


class Halving(LRScheduler):
    """Halves the rate after every step."""

    def __init__(self, optimizer, factor: float = 0.5):
        self.factor = factor
        super().__init__(optimizer)

    def get_lr(self):
        return [rate * self.factor**self.last_epoch for rate in self.base_lrs]
''',
}
STEPS = ((0.004, -0.004), (0.002, -0.002))
CONFIG = {
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 3,
        "log_every_n_steps": 1,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "callbacks": [
            {"class_path": "poems.callbacks.CountSteps", "init_args": {"path": "count.txt"}}
        ],
    },
    "model": {
        "class_path": "poems.tasks.HalvedLoss",
        "init_args": {
            "factor": 0.25,
            "gpt": {"num_layers": 1, "num_heads": 2, "embed_dim": 16, "block_size": 8},
            "optimizer": {"class_path": "poems.optim.SignSGD", "init_args": {"lr": 0.008}},
            "lr_schedule": {"class_path": "poems.optim.Halving", "init_args": {"factor": 0.5}},
        },
    },
    "data": {
        "class_path": "poems.data.Verses",
        "init_args": {"sources": ["input.txt"], "batch_size": 4},
    },
}


@pytest.fixture
def poems(tmp_path: Path) -> Path:
    """A folder with the package `poems`, its configuration and a text."""
    package = tmp_path / "packages" / "poems"
    package.mkdir(parents=True)
    for name, text in POEMS.items():
        (package / name).write_text(text)
    (tmp_path / "poems.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "input.txt").write_text(TEXT * 20)
    return tmp_path


def test_project_of_its_own_runs_on_the_unchanged_core(
    poems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(poems / "packages")
    arguments = ("fit", "--config", "poems.yaml")
    result = run_process(poems, *arguments, env={"PYTHONPATH": path})
    assert result.status == 0, result.err
    run_dir = only_run(poems, "poems")
    rows = read_metrics(run_dir)
    # The task's loss: a quarter of ln 258 in training, all of it in validation.
    assert rows[0]["train/loss"] == pytest.approx(0.25 * math.log(258), rel=0.05)
    assert rows[2]["val/loss"] == pytest.approx(math.log(258), rel=0.2)
    # The schedule and the optimiser.
    assert [row["train/lr"] for row in rows] == pytest.approx([0.008, 0.004, 0.002])
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(group["is_sign"] for group in last["optimizer_states"][0]["param_groups"])
    # The network of build_model, moved by steps of these very lengths, up or down.
    moved = float(last["state_dict"]["model.scale"]) - 1.0
    ends = [0.008 + second + third for second in STEPS[0] for third in STEPS[1]]
    assert abs(moved) in [pytest.approx(end, abs=1e-6) for end in ends]
    # The data module's tokenizer and the callback.
    assert last["lit_gpt_kit"]["tokenizer"]["end_token"] == "<verse>"
    assert last["lit_gpt_kit"]["gpt"]["vocab_size"] == 258
    assert (poems / "count.txt").read_text() == "3"
    assert (run_dir / "checkpoints" / "best.ckpt").is_file()

    monkeypatch.syspath_prepend(path)
    continued = run(poems, *arguments, "--ckpt_path=last", "--trainer.max_steps=5")
    assert continued.status == 0, continued.err
    assert (poems / "count.txt").read_text() == "5"
    assert read_metrics(run_dir)[4]["train/lr"] == pytest.approx(0.0005)

    import poems.tasks as tasks

    task = tasks.HalvedLoss.load_from_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    assert isinstance(task.model, tasks.ScaledGPT)
    assert isinstance(task.generate("the", max_new_tokens=5), str)


# ---- our classes in other people's code ----

TINY = GPTConfig(num_layers=1, num_heads=2, embed_dim=16, block_size=8)


def make_data(folder: Path, **options: Any) -> TextDataModule:
    (folder / "input.txt").write_text(TEXT * 20)
    return TextDataModule(
        [str(folder / "input.txt")],
        tokenizer=TokenizerConfig("byte"),
        cache_dir=str(folder / "cache"),
        **options,
    )


def make_trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"logger": False, "max_steps": 5, **options},
    )


def test_our_classes_in_a_plain_trainer(tmp_path: Path) -> None:
    task = LanguageModeling(
        TINY,
        lambda params: torch.optim.AdamW(params, lr=0.01),
        lambda optimizer: WarmupCosine(optimizer, warmup_steps=1),
    )
    data = make_data(tmp_path, batch_size=4)
    logger = CSVLogger(tmp_path)
    options: Any = {"val_check_interval": 5, "check_val_every_n_epoch": None}
    trainer = make_trainer(tmp_path, logger=logger, callbacks=[Throughput()], **options)
    trainer.fit(task, data)
    logged = (Path(logger.log_dir) / "metrics.csv").read_text()
    for name in ("train/loss", "train/tokens_per_second", "val/loss", "val/bits_per_byte"):
        assert name in logged
    (scores,) = trainer.validate(task, data, verbose=False)
    assert scores["val/loss"] < math.log(257)
    (tested,) = trainer.test(task, data, verbose=False)
    assert tested["test/loss"] == pytest.approx(scores["val/loss"])
    predictions: Any = trainer.predict(task, data)
    assert predictions[0]["log_probs"].shape == (4, 8)
    path = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    assert isinstance(LanguageModeling.load_from_checkpoint(path).generate("the"), str)


class Bigrams(LightningModule):
    """Somebody's own model: the next byte from this one."""

    def __init__(self, block_size: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(257, 257)
        self.shapes: set[torch.Size] = set()
        self.losses: list[float] = []
        if block_size is not None:
            self.block_size = block_size

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.shapes.add(batch["input_ids"].shape)
        logits = self.table(batch["input_ids"]).flatten(0, 1)
        loss = F.cross_entropy(logits, batch["targets"].flatten())
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=50.0)


@pytest.mark.parametrize("says", ["module", "data"])
def test_our_data_for_somebodys_module(says: str, tmp_path: Path) -> None:
    module = Bigrams(block_size=6 if says == "module" else None)
    data = make_data(tmp_path, batch_size=3, block_size=6 if says == "data" else None)
    make_trainer(tmp_path, max_steps=20).fit(module, data)
    assert module.shapes == {torch.Size([3, 6])}
    assert module.losses[-1] < module.losses[0] - 1


def test_our_task_on_somebodys_batches(tmp_path: Path) -> None:
    ids = torch.randint(11, (12, 9), generator=torch.Generator().manual_seed(0))
    rows: Any = [{"input_ids": row[:-1], "targets": row[1:]} for row in ids]
    loader = DataLoader(rows, batch_size=4)
    torch.manual_seed(0)
    task = LanguageModeling(
        GPTConfig(11, num_layers=1, num_heads=2, embed_dim=16, block_size=8),
        lambda params: torch.optim.SGD(params, lr=0.5),
    )
    task.configure_model()
    with torch.no_grad():
        before = F.cross_entropy(task(ids[:4, :-1]).flatten(0, 1), ids[:4, 1:].flatten())
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(task, loader)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(before), rel=1e-6)
    (scores,) = trainer.validate(task, loader, verbose=False)
    with torch.no_grad():
        loss = F.cross_entropy(task(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert set(scores) == {"val/loss", "val/perplexity"}  # no tokenizer: nobody knows the bytes
    assert scores["val/loss"] == pytest.approx(float(loss), rel=1e-6)

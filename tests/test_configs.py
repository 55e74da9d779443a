"""Every file under configs/ is parsed as it stands, and runs for two steps in small."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_gpt_kit.cli.train import TrainingCLI
from tests.command import TEXT, run
from tests.conftest import REPOSITORY
from tests.run_dir import only_run, read_metrics

FINETUNE = sorted((REPOSITORY / "configs" / "finetune").glob("*.yaml"))
# These are layered on a run: tests/cli/test_strategies.py
STRATEGIES = sorted((REPOSITORY / "configs" / "strategies").glob("*.yaml"))
CONFIGS = sorted({*(REPOSITORY / "configs").rglob("*.yaml")} - {*FINETUNE, *STRATEGIES})
SMALL = (
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.precision=32-true",
    "--trainer.max_steps=2",
    "--trainer.accumulate_grad_batches=1",
    "--trainer.val_check_interval=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
    "--trainer.logger.save_dir=logs",
    "--model.gpt.num_layers=1",
    "--model.gpt.num_heads=2",
    "--model.gpt.embed_dim=16",
    "--model.gpt.block_size=8",
    "--data.sources=[input.txt]",
    "--data.val_fraction=0.1",
    "--data.batch_size=2",
)


class ParserOnly(TrainingCLI):
    """Parses, and does no more."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def test_there_are_configs() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {"quickstart", "shakespeare-char-nanogpt", "gpt2-124m"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_is_parsed(config: Path) -> None:
    settings: Any = ParserOnly("fit", ["--config", str(config)]).config["fit"]
    assert settings.trainer.max_steps > 0
    assert settings.data.init_args.sources
    assert isinstance(settings.model.init_args.gpt.num_layers, int)


@pytest.mark.parametrize("config", [*CONFIGS, *FINETUNE, *STRATEGIES], ids=lambda path: path.stem)
def test_says_at_its_top_what_it_is(config: Path) -> None:
    assert config.read_text().startswith("# ")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_runs_for_two_steps(config: Path, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(TEXT * 20)
    result = run(tmp_path, "fit", "--config", str(config), *SMALL)
    assert result.status == 0, result.err
    run_dir = only_run(tmp_path, config.stem)
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["val/loss"] > 0
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2


def test_nanogpts_recipe_is_number_by_number_its_own() -> None:
    path = REPOSITORY / "configs" / "shakespeare-char-nanogpt.yaml"
    settings: Any = ParserOnly("fit", ["--config", str(path)]).config["fit"]
    gpt = settings.model.init_args.gpt
    shape = (gpt.num_layers, gpt.num_heads, gpt.embed_dim, gpt.block_size, gpt.dropout)
    assert shape == (4, 4, 128, 64, 0.0)
    optimizer = settings.model.init_args.optimizer
    assert optimizer.class_path == "torch.optim.AdamW"
    values = optimizer.init_args
    assert (values.lr, tuple(values.betas), values.weight_decay) == (1e-3, (0.9, 0.99), 0.1)
    schedule = settings.model.init_args.lr_schedule
    assert schedule.class_path == "lit_gpt_kit.WarmupCosine"
    assert (schedule.init_args.warmup_steps, schedule.init_args.min_factor) == (100, 0.1)
    assert (settings.trainer.max_steps, settings.trainer.gradient_clip_val) == (2000, 1.0)
    data = settings.data.init_args
    assert (data.batch_size, data.val_fraction, data.tokenizer.kind) == (12, 0.1, "char")


def test_gpt2_is_gpt2_small_and_half_a_million_tokens_a_step() -> None:
    path = REPOSITORY / "configs" / "gpt2-124m.yaml"
    settings: Any = ParserOnly("fit", ["--config", str(path)]).config["fit"]
    gpt = settings.model.init_args.gpt
    shape = (gpt.num_layers, gpt.num_heads, gpt.embed_dim, gpt.block_size)
    assert shape == (12, 12, 768, 1024)
    assert (settings.trainer.precision, settings.trainer.strategy) == ("auto", "ddp")
    rows = 8 * settings.data.init_args.batch_size * settings.trainer.accumulate_grad_batches
    assert rows * gpt.block_size == 2**19


def test_quickstart_downloads_nothing() -> None:
    path = REPOSITORY / "configs" / "quickstart.yaml"
    settings: Any = ParserOnly("fit", ["--config", str(path)]).config["fit"]
    assert settings.data.init_args.sources == ["builtin:python-docs"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_downloads_name_their_content(config: Path) -> None:
    for line in config.read_text().splitlines():
        if "https://" in line and not line.lstrip().startswith("#"):
            assert "#sha256=" in line

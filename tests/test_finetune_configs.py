"""Every file under configs/finetune/: parsed as it stands, and run on real rows in small."""

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.finetuning import RECIPES
from tests.command import run
from tests.conftest import REPOSITORY, shared_data
from tests.run_dir import only_run, read_metrics
from tests.test_configs import FINETUNE, ParserOnly
from tests.transformers_models import build, save

PRETRAINED = [path for path in FINETUNE if "pretrained:" in path.read_text()]
SMALL = (
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.limit_val_batches=16",
    "--trainer.log_every_n_steps=1",
    "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
    "--trainer.logger.save_dir=logs",
    "--data.batch_size=2",
    "--data.block_size=4096",  # bytes are many tokens
    "--data.cache_dir=cache",
)
METRICS = {
    "classify": {"val/accuracy", "val/f1", "val/auroc"},
    "translate": {"val/chrf", "val/bleu"},
    "summarize": {"val/rouge1", "val/rouge2", "val/rougeL"},
    "answer": {"val/exact_match", "val/token_f1"},
    "chat": {"val/perplexity", "val/bits_per_byte"},
    "instruct-lora": {"val/perplexity", "val/bits_per_byte"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the width of a block that real rows need."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(build("llama", "grouped", max_position_embeddings=4096), folder)
    return folder


def test_there_is_a_config_for_each_use() -> None:
    assert {path.stem for path in PRETRAINED} == set(METRICS)
    assert set(RECIPES) == set(METRICS) - {"classify"}


@pytest.mark.parametrize("config", PRETRAINED, ids=lambda path: path.stem)
def test_is_parsed(config: Path) -> None:
    settings: Any = ParserOnly("fit", ["--config", str(config)]).config["fit"]
    assert settings.model.init_args.pretrained == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert settings.data.init_args.sources


@pytest.mark.parametrize("config", PRETRAINED, ids=lambda path: path.stem)
def test_has_its_page(config: Path) -> None:
    page = REPOSITORY / "docs" / "tasks" / f"{config.stem}.md"
    assert f"configs/finetune/{config.name}" in page.read_text()
    assert f"docs/tasks/{config.stem}.md" in config.read_text()


@pytest.mark.parametrize("config", PRETRAINED, ids=lambda path: path.stem)
def test_runs_on_real_rows(config: Path, model: Path, tmp_path: Path) -> None:
    name = config.stem
    if name == "classify":
        rows = shared_data("sentence_polarity/sentence_polarity.jsonl.gz")
        flags = [f"--data.sources=[{rows}]"]
    else:
        for needed in ("tatoeba_en_fr", "dialogsum", "xquad", "sgd_chat", "alpaca_libre"):
            shared_data(needed)
        flags = RECIPES[name](tmp_path)
    if "GenerationMetrics" in config.read_text():
        flags += [
            "--trainer.callbacks.init_args.max_examples=2",
            "--trainer.callbacks.init_args.max_new_tokens=4",
        ]
    base = ["--config", str(config), f"--model.pretrained={model}", *flags, *SMALL]
    result = run(tmp_path, "fit", *base)
    assert result.status == 0, result.err
    run_dir = only_run(tmp_path, name)
    last = read_metrics(run_dir)[-1]
    assert last["step"] == 2
    assert all(last[metric] >= 0 for metric in METRICS[name]), last
    _use(name, run_dir, tmp_path)


def _use(name: str, run_dir: Path, project: Path) -> None:
    """The run ends in something that generate, chat or predict takes."""
    if name == "classify":
        (project / "new.jsonl").write_text('{"text": "a film to see twice"}\n')
        result = run(
            project,
            *("predict", "--config", str(run_dir / "config.yaml"), "--ckpt_path", str(run_dir)),
            *("--data.predict_sources=[new.jsonl]", "--output", "out.jsonl"),
        )
        assert result.status == 0, result.err
        assert '"label": ' in (project / "out.jsonl").read_text()
        return
    result = run(project, "generate", str(run_dir), "--prompt", "a", "--max_new_tokens", "2")
    assert result.status == 0, result.err
    assert result.out.startswith("a")

"""Freezes what people type, import and find on disk, as far as it exists; see docs/configuration.

A change here is a change of what others rely on, and belongs into CHANGELOG.md.
"""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import lit_gpt_kit
from lit_gpt_kit.cli.chat import _parser as chat_parser
from lit_gpt_kit.cli.export import _parser as export_parser
from lit_gpt_kit.cli.generate import _parser as generate_parser
from lit_gpt_kit.cli.main import COMMANDS, DONE, FAULT, INTERRUPTED, WRONG_INPUT
from lit_gpt_kit.cli.merge import _parser as merge_parser
from lit_gpt_kit.cli.models import _parser as models_parser
from lit_gpt_kit.cli.report import _parser as report_parser
from lit_gpt_kit.data.documents import FORMATS
from lit_gpt_kit.data.sources import BUILTINS
from lit_gpt_kit.model.config import MLPKind, NormKind, PositionKind
from lit_gpt_kit.tokenization.training import TokenizerKind
from tests.command import run, write_project
from tests.run_dir import METRICS, only_run, read_metrics

PUBLIC_NAMES = {
    "ClassificationDataModule",
    "ClassificationMetrics",
    "GPT",
    "GPTConfig",
    "GenerationMetrics",
    "InstructionDataModule",
    "LanguageModeling",
    "LoRAConfig",
    "MuonAdamW",
    "SampleText",
    "SamplingConfig",
    "SequenceClassification",
    "TextDataModule",
    "Throughput",
    "Tokenizer",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupStableDecay",
    "generate",
    "load_model",
}
SAMPLING = {
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "stop",
    "seed",
}
OWN_FLAGS = {"config", "seed_everything", "model", "data", "trainer", "ckpt_path", "run_dir"}


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"--([a-z_]+)", text))


# ---- the command line ----


def test_commands() -> None:
    training = {"fit", "validate", "test", "predict"}
    others = {"generate", "chat", "tokenizer", "export", "merge", "models", "inspect-data", "tune"}
    others |= {"plan", "sweep", "report"}
    assert training | others <= set(COMMANDS)


def test_exit_statuses() -> None:
    assert (DONE, FAULT, WRONG_INPUT, INTERRUPTED) == (0, 1, 2, 130)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_flags_of_the_training_commands(command: str, tmp_path: Path) -> None:
    assert flags_in(run(tmp_path, command, "--help").out) >= OWN_FLAGS


def test_flags_of_generate(tmp_path: Path) -> None:
    own = {"prompt", "prompts_file", "num_samples", "precision", "output"}
    assert flags_in(run(tmp_path, "generate", "--help").out) >= SAMPLING | own
    positional = [a.dest for a in generate_parser()._actions if not a.option_strings]
    assert positional == ["model"]


def test_flags_of_chat(tmp_path: Path) -> None:
    assert flags_in(run(tmp_path, "chat", "--help").out) >= SAMPLING | {"system", "precision"}
    positional = [a.dest for a in chat_parser()._actions if not a.option_strings]
    assert positional == ["model"]


def test_flags_of_models(tmp_path: Path) -> None:
    text = run(tmp_path, "models", "--help").out
    assert flags_in(text) >= {"memory", "task", "use", "precision"}
    positional = [a.dest for a in models_parser()._actions if not a.option_strings]
    assert positional == ["name"]


def test_flags_of_tokenizer(tmp_path: Path) -> None:
    train = run(tmp_path, "tokenizer", "train", "--help").out
    assert flags_in(train) >= {"sources", "vocab_size", "output", "kind"}
    inspect_help = run(tmp_path, "tokenizer", "inspect", "--help").out
    assert "text" in flags_in(inspect_help)
    assert re.search(r"^usage: .* file", inspect_help, re.M | re.S)


def test_flags_of_export(tmp_path: Path) -> None:
    assert flags_in(run(tmp_path, "export", "--help").out) >= {"format", "precision"}
    positional = [a.dest for a in export_parser()._actions if not a.option_strings]
    assert positional == ["model", "folder"]


def test_flags_of_merge(tmp_path: Path) -> None:
    assert flags_in(run(tmp_path, "merge", "--help").out) >= {"base", "precision"}
    positional = [a.dest for a in merge_parser()._actions if not a.option_strings]
    assert positional == ["model", "folder"]


def test_flags_of_inspect_data(tmp_path: Path) -> None:
    assert flags_in(run(tmp_path, "inspect-data", "--help").out) >= {"config", "rows"}


def test_flags_of_tune(tmp_path: Path) -> None:
    assert flags_in(run(tmp_path, "tune", "--help").out) >= {"config", "find", "memory"}


def test_flags_of_sweep(tmp_path: Path) -> None:
    flags = flags_in(run(tmp_path, "sweep", "--help").out)
    assert flags >= {"config", "vary", "method", "metric", "runs", "output"}


def test_flags_of_report(tmp_path: Path) -> None:
    text = run(tmp_path, "report", "--help").out
    assert flags_in(text) >= {"output", "format", "title"}
    positional = [a.dest for a in report_parser()._actions if not a.option_strings]
    assert positional == ["run_dirs"]


def test_sources() -> None:
    assert set(BUILTINS) == {"builtin:python-docs", "builtin:python-code"}
    assert set(FORMATS) >= {".txt", ".md", ".py", ".jsonl", ".csv", ".tsv", ".parquet"}


# ---- Python ----


def test_public_names() -> None:
    assert set(lit_gpt_kit.__all__) >= PUBLIC_NAMES


@pytest.mark.parametrize("name", lit_gpt_kit.__all__)
def test_public_name_is_there(name: str) -> None:
    value = getattr(lit_gpt_kit, name)
    assert name == "__version__" or value.__name__ == name
    assert name in dir(lit_gpt_kit)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lit_gpt_kit' has no attribute 'GTP'"):
        _ = lit_gpt_kit.GTP


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lit_gpt_kit.TextDataModule, {"sources", "val_sources", "val_fraction", "tokenizer"}),
        (lit_gpt_kit.TextDataModule, {"batch_size", "global_batch_tokens"}),
        (lit_gpt_kit.LanguageModeling, {"gpt", "optimizer", "lr_schedule", "pretrained", "lora"}),
        (lit_gpt_kit.SequenceClassification, {"gpt", "optimizer", "lr_schedule", "pretrained"}),
        (lit_gpt_kit.ClassificationDataModule, {"sources", "val_sources", "text_columns"}),
        (lit_gpt_kit.ClassificationDataModule, {"label_column", "tokenizer", "batch_size"}),
        (lit_gpt_kit.InstructionDataModule, {"sources", "val_sources", "tokenizer", "batch_size"}),
        (lit_gpt_kit.InstructionDataModule, {"pack", "global_batch_size"}),
        (lit_gpt_kit.ClassificationDataModule, {"global_batch_size"}),
        (lit_gpt_kit.LanguageModeling, {"max_bad_steps"}),
        (lit_gpt_kit.LoRAConfig, {"rank", "alpha", "dropout", "targets", "use_dora"}),
        (lit_gpt_kit.LoRAConfig, {"use_rslora"}),
        (lit_gpt_kit.TokenizerConfig, {"kind", "vocab_size"}),
        (lit_gpt_kit.WarmupCosine, {"warmup_steps"}),
        (lit_gpt_kit.SamplingConfig, SAMPLING),
    ],
)
def test_parameters(function: Any, names: set[str]) -> None:
    assert set(parameters(function)) >= names


def test_order_of_what_is_given_without_names() -> None:
    assert parameters(lit_gpt_kit.generate)[:3] == ["model", "prompts", "config"]
    assert parameters(lit_gpt_kit.LanguageModeling.generate)[:2] == ["prompt", "max_new_tokens"]
    assert parameters(lit_gpt_kit.load_model)[0] == "name"
    assert parameters(lit_gpt_kit.TextDataModule)[0] == "sources"


def test_words_of_the_network() -> None:
    names = {field.name for field in fields(lit_gpt_kit.GPTConfig)}
    assert names >= {
        *("vocab_size", "block_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"),
        *("embed_dim", "mlp_dim", "position", "norm", "mlp", "use_bias", "use_qk_norm"),
        *("tie_embeddings", "dropout"),
    }
    assert all(field.default is not MISSING for field in fields(lit_gpt_kit.GPTConfig))
    assert set(get_args(PositionKind)) == {"sinusoidal", "learned", "rotary", "none"}
    assert set(get_args(NormKind)) == {"layernorm", "rmsnorm"}
    assert set(get_args(MLPKind)) >= {"gelu", "gelu_tanh", "swiglu", "geglu", "relu2"}
    assert set(get_args(TokenizerKind)) == {"bpe", "char", "byte"}


# ---- YAML and disk ----

YAML = """
seed_everything: 0
trainer: {max_steps: 2, precision: bf16-mixed, accelerator: cpu, log_every_n_steps: 1}
model:
  class_path: lit_gpt_kit.LanguageModeling
  init_args:
    gpt: {num_layers: 1, num_heads: 2, embed_dim: 16, block_size: 8}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.02}}
    lr_schedule: {class_path: lit_gpt_kit.WarmupCosine, init_args: {warmup_steps: 1}}
data:
  class_path: lit_gpt_kit.TextDataModule
  init_args: {sources: [input.txt], tokenizer: {kind: bpe, vocab_size: 300}, batch_size: 4}
"""


def test_promised_yaml_leaves_the_promised_folder(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "tiny.yaml").write_text(YAML)
    limit = "--trainer.limit_val_batches=1"
    result = run(tmp_path, "fit", "--config", "tiny.yaml", limit, "--trainer.val_check_interval=2")
    assert result.status == 0, result.err
    run_dir = only_run(tmp_path)
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt", "wandb/latest-run"):
        assert (run_dir / name).exists()
    assert (run_dir / "run.json").exists()
    assert (tmp_path / "runs" / "tiny" / "latest").resolve() == run_dir.resolve()
    assert set(read_metrics(run_dir)[0]) == {"step", *METRICS}
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["trainer"]["max_steps"] == 2


def test_sources_from_a_shell(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "tiny.yaml").write_text(YAML)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 20)
    flags = ["--data.sources=[a.txt, input.txt]", "--trainer.fast_dev_run=true"]
    result = run(tmp_path, "fit", "--config", "tiny.yaml", *flags)
    assert result.status == 0, result.err
    assert "from a.txt, input.txt" in result.out


def test_promised_metric_names() -> None:
    promised = {"loss", "lr", "grad_norm", "tokens", "tokens_per_second"}
    promised |= {"mfu", "step_seconds", "data_share", "peak_memory_bytes"}
    assert {name.removeprefix("train/") for name in METRICS if "train" in name} == promised
    promised = {"loss", "perplexity", "bits_per_byte"}
    assert {name.removeprefix("val/") for name in METRICS if "val" in name} == promised

"""Wrong input gets one clear line and exit status 2, and nothing is lost; by running commands."""

import hashlib
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.conftest import FinishedRun
from tests.command import run

FIT = ("fit", "--config", "tiny.yaml")
QUIET = "--trainer.logger=false"


def assert_says(complaint: str, *words: str) -> None:
    for word in words:
        assert word in complaint, complaint


def nothing_is_left(project: Path) -> bool:
    return not list(project.glob("runs/*/*"))


# ---- text ----


def test_missing_file(project: Path) -> None:
    complaint = run(project, *FIT, "--data.sources=[nonesuch.txt]").complaint
    assert complaint == f"source nonesuch.txt does not exist (from {project})"
    assert nothing_is_left(project)


def test_empty_file(project: Path) -> None:
    (project / "blank.txt").touch()
    assert run(project, *FIT, "--data.sources=[blank.txt]").complaint == "blank.txt is empty"


def test_folder_without_text(project: Path) -> None:
    (project / "pictures").mkdir()
    (project / "pictures" / "fox.png").write_bytes(b"\x89PNG")
    complaint = run(project, *FIT, "--data.sources=[pictures]").complaint
    assert_says(complaint, "source pictures holds no text", ".txt", ".jsonl", ".parquet", ".zst")


def test_glob_that_finds_nothing(project: Path) -> None:
    complaint = run(project, *FIT, "--data.sources=['*.md']").complaint
    assert_says(complaint, "source *.md holds no text")


def test_unknown_format(project: Path) -> None:
    (project / "fox.docx").write_text("fox")
    complaint = run(project, *FIT, "--data.sources=[fox.docx]").complaint
    assert_says(complaint, "fox.docx is of an unknown format", "known: .txt")


def test_unknown_builtin_corpus(project: Path) -> None:
    complaint = run(project, *FIT, "--data.sources=['builtin:python-doc']").complaint
    expected = "there is no corpus builtin:python-doc; did you mean 'builtin:python-docs'?"
    assert complaint == expected


def test_bytes_that_are_not_utf8(project: Path) -> None:
    (project / "latin.txt").write_bytes("café\n".encode() + "un café\n".encode("latin-1"))
    complaint = run(project, *FIT, "--data.sources=[latin.txt]").complaint
    assert_says(complaint, "latin.txt is not UTF-8", "byte 0xe9 at offset 12", "convert the file")


def test_broken_json_line(project: Path) -> None:
    (project / "rows.jsonl").write_text('{"text": "a fox"}\n\n{"text": "a dog"\n')
    complaint = run(project, *FIT, "--data.sources=[rows.jsonl]").complaint
    assert_says(complaint, "rows.jsonl, line 3: not valid JSON", "column")


def test_missing_text_field(project: Path) -> None:
    (project / "rows.jsonl").write_text('{"body": "a fox", "title": "fox"}\n')
    complaint = run(project, *FIT, "--data.sources=[rows.jsonl]").complaint
    assert_says(complaint, "rows.jsonl, line 1: no field 'text'", "'body', 'title'", "text_field")


def test_block_size_longer_than_the_corpus(project: Path) -> None:
    (project / "input.txt").write_text("the quick brown fox jumps")
    complaint = run(project, *FIT, "--model.gpt.block_size=1024").complaint
    assert complaint == (
        "block_size=1024 is longer than the corpus (23 tokens to train on in input.txt); lower "
        "block_size or add text"
    )
    assert nothing_is_left(project)


def test_character_that_the_tokenizer_does_not_know(project: Path) -> None:
    train = ("tokenizer", "train", "--sources", "input.txt", "--output", "letters.json")
    assert run(project, *train, "--kind", "char").status == 0
    (project / "more.txt").write_text("FOX " * 100)
    flags = ("--data.sources=[more.txt]", "--data.tokenizer=letters.json")
    assert_says(run(project, *FIT, *flags).complaint, "character 'F' (U+0046)", "kind bpe or byte")


# ---- configuration ----


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--trainer.max_stepz=3", ["'trainer.max_stepz'", "'trainer.max_steps'?"]),
        ("--trainer.max_step=3", ["'trainer.max_step'", "'trainer.max_steps'?"]),
        ("--max_steps=3", ["unknown key 'max_steps'", "'trainer.max_steps'?"]),
        ("--model.gtp.num_layers=3", ["model: ", "'gtp'", "'gpt'?"]),
        ("--model.gpt.num_layer=3", ["model.gpt: ", "'num_layer'", "'num_layers'?"]),
        ("--model.optimizer.lrr=3", ["model.optimizer: ", "AdamW", "'lrr'", "'lr'?"]),
        ("--model.lr_schedule.warmup=3", ["model.lr_schedule: ", "'warmup'", "'warmup_steps'?"]),
        ("--data.source=[a]", ["data: ", "TextDataModule", "'source'", "'sources'?"]),
        ("--data.tokenizer.knd=bpe", ["data.tokenizer: ", "'knd'", "'kind'?"]),
    ],
)
def test_unknown_key_on_the_command_line(flag: str, words: list[str], project: Path) -> None:
    assert_says(run(project, *FIT, flag).complaint, *words)
    assert nothing_is_left(project)


def change(project: Path, place: str, value: Any) -> None:
    """Set a key of tiny.yaml, named with dots."""
    config = yaml.safe_load((project / "tiny.yaml").read_text())
    *parents, last = place.split(".")
    entry = config
    for parent in parents:
        entry = entry[parent]
    entry[last] = value
    (project / "tiny.yaml").write_text(yaml.safe_dump(config))


EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
ARGUMENTS = "model.init_args."


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("trainr", {"max_steps": 3}, ["'trainr.max_steps'", "'trainer.max_steps'?"]),
        ("trainer.max_stepz", 3, ["'trainer.max_stepz'", "'trainer.max_steps'?"]),
        (f"{ARGUMENTS}gtp", {"num_layers": 3}, ["model: ", "'gtp'", "'gpt'?"]),
        (f"{ARGUMENTS}gpt.num_layer", 3, ["model.gpt: ", "'num_layer'", "'num_layers'?"]),
        (f"{ARGUMENTS}optimizer.init_args.lrr", 3, ["model.optimizer: ", "'lrr'", "'lr'?"]),
        (
            f"{ARGUMENTS}lr_schedule.init_args.warmup",
            3,
            ["model.lr_schedule: ", "WarmupCosine", "'warmup'", "'warmup_steps'?"],
        ),
        ("data.init_args.source", "a", ["data: ", "'source'", "'sources'?"]),
        ("data.init_args.tokenizer.vocab", 4, ["data.tokenizer: ", "'vocab'", "'vocab_size'?"]),
        (
            "trainer.callbacks",
            [{"class_path": EARLY_STOPPING, "init_args": {"monitr": "val/loss"}}],
            ["trainer.callbacks: ", "EarlyStopping", "'monitr'", "'monitor'?"],
        ),
    ],
)
def test_unknown_key_in_the_file(place: str, value: Any, words: list[str], project: Path) -> None:
    change(project, place, value)
    assert_says(run(project, *FIT).complaint, *words)
    assert nothing_is_left(project)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (
            "model.class_path",
            "lit_gpt_kit.LanguageModelling",
            ["model: ", "no class lit_gpt_kit.LanguageModelling", "'LanguageModeling'?"],
        ),
        (
            "model.class_path",
            "LanguageModelling",
            ["model: ", "'LanguageModelling'", "'lit_gpt_kit.LanguageModeling'?"],
        ),
        ("data.class_path", "lit_gpt_kit.TextDatamodule", ["data: ", "'TextDataModule'?"]),
        (
            f"{ARGUMENTS}optimizer.class_path",
            "torch.optim.AdmW",
            ["model.optimizer: ", "torch.optim.AdmW", "'AdamW'?"],
        ),
        (
            f"{ARGUMENTS}lr_schedule.class_path",
            "lit_gpt_kit.WarmupCosin",
            ["model.lr_schedule: ", "'WarmupCosine'?"],
        ),
        (
            "trainer.callbacks",
            [{"class_path": "lightning.pytorch.callbacks.EarlyStoping"}],
            ["trainer.callbacks: ", "'EarlyStopping'?"],
        ),
        (
            "trainer.logger",
            {"class_path": "lightning.pytorch.loggers.CSVLoger"},
            ["trainer.logger: ", "'CSVLogger'?"],
        ),
        (
            "model.class_path",
            "nonesuch.Model",
            ["model: there is no module 'nonesuch'", "PYTHONPATH"],
        ),
        ("model.class_path", "torch.optim.AdamW", ["model: ", "torch.optim.AdamW", "subclass of"]),
    ],
)
def test_unknown_class(place: str, value: Any, words: list[str], project: Path) -> None:
    change(project, place, value)
    assert_says(run(project, *FIT).complaint, *words)
    assert nothing_is_left(project)


def test_null_for_a_group_of_options(project: Path) -> None:
    complaint = run(project, *FIT, "--model.init_args.gpt=null").complaint
    assert complaint == "a group of options is null; give its options, or leave it out"
    assert nothing_is_left(project)


def test_two_wandb_runs_in_one_folder(project: Path) -> None:
    change(project, "trainer.logger", [{"class_path": "lit_gpt_kit.loggers.wandb.WandbRun"}] * 2)
    expected = "trainer.logger has WandbRun twice; a run folder is one W&B run, keep one"
    assert run(project, *FIT).complaint == expected
    assert nothing_is_left(project)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("trainer.max_steps", "three", "trainer.max_steps: expected int, got three"),
        (f"{ARGUMENTS}gpt.num_layers", 2.5, "model.gpt.num_layers: expected int, got 2.5"),
        (f"{ARGUMENTS}gpt.use_bias", "x", "model.gpt.use_bias: expected bool, got x"),
        (
            f"{ARGUMENTS}gpt.position",
            "rotari",
            "model.gpt.position: expected one of 'sinusoidal', 'learned', 'rotary', 'none', got "
            "rotari",
        ),
        (
            f"{ARGUMENTS}optimizer.init_args.lr",
            "fast",
            "model.optimizer.lr: expected float or Tensor, got fast",
        ),
        ("data.init_args.batch_size", "x", "data.batch_size: expected int, got x"),
        ("data.init_args.sources", "input.txt", "data.sources: expected list, got input.txt"),
        ("data.init_args.tokenizer", 7, "data.tokenizer: expected TokenizerConfig or str, got 7"),
        (
            "data.init_args.tokenizer.kind",
            "bpee",
            "data.tokenizer.kind: expected one of 'bpe', 'char', 'byte', got bpee",
        ),
        (
            "trainer.callbacks",
            [{"class_path": EARLY_STOPPING, "init_args": {"monitor": "a", "patience": "x"}}],
            "trainer.callbacks.patience: expected int, got x",
        ),
        (
            "trainer.callbacks",
            [{"class_path": EARLY_STOPPING}],
            "trainer.callbacks: the following arguments are required: monitor",
        ),
        ("trainer", None, "trainer holds nothing; give it arguments, or leave it out"),
    ],
)
def test_wrong_type_or_choice(place: str, value: Any, complaint: str, project: Path) -> None:
    change(project, place, value)
    assert run(project, *FIT).complaint == complaint
    assert nothing_is_left(project)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (
            f"{ARGUMENTS}gpt.embed_dim",
            15,
            "embed_dim=15 is not divisible by num_heads=2; change one of them or give head_dim",
        ),
        (f"{ARGUMENTS}gpt.num_layers", 0, "num_layers=0 must be at least 1"),
        (f"{ARGUMENTS}lr_schedule.init_args.warmup_steps", -1, "warmup_steps=-1 must be at least"),
        ("data.init_args.batch_size", 0, "batch_size=0 must be at least 1"),
        ("data.init_args.val_fraction", 1.5, "val_fraction=1.5 must be at least 0 and below 1"),
        (
            "data.init_args.tokenizer",
            {"kind": "bpe", "vocab_size": 4},
            "vocab_size=4 is too small for a bpe tokenizer; 256 bytes and 1 special tokens need 25",
        ),
        ("data.init_args.tokenizer", "nonesuch.json", "tokenizer nonesuch.json does not exist"),
        (
            f"{ARGUMENTS}gpt.vocab_size",
            100,
            "vocab_size=100 is smaller than the tokenizer's 257 tokens; leave vocab_size out, or "
            "use the tokenizer that belongs to the model",
        ),
        (
            "trainer.accumulate_grad_batches",
            0,
            "trainer.accumulate_grad_batches=0 must be at least 1",
        ),
        (
            "trainer.limit_val_batches",
            -3,
            "trainer.limit_val_batches=-3 must be a share from 0.0 to 1.0, or a number of",
        ),
    ],
)
def test_value_out_of_range(place: str, value: Any, complaint: str, project: Path) -> None:
    change(project, place, value)
    assert run(project, *FIT).complaint.startswith(complaint)
    assert nothing_is_left(project)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"trainer: {max_steps: 3\nmodel: [", ["not valid YAML", "line 2, column 6"]),
        (b"- a\n", ["holds no configuration"]),
        (b"", ["holds no configuration"]),
        (b"trainer: \xff", ["not UTF-8", "offset 9"]),
    ],
)
def test_broken_configuration_file(content: bytes, words: list[str], project: Path) -> None:
    (project / "tiny.yaml").write_bytes(content)
    complaint = run(project, *FIT).complaint
    assert complaint.startswith("tiny.yaml ")
    assert_says(complaint, *words)


def test_missing_configuration_file(project: Path) -> None:
    complaint = run(project, "fit", "--config", "nonesuch.yaml").complaint
    assert_says(complaint, "config: ", "nonesuch.yaml", "does not exist")


def test_nothing_to_train_on(project: Path) -> None:
    assert_says(run(project, "fit").complaint, "data: ", "required: sources")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--trainer.accelerator=nonesuch", ["nonesuch", "cpu", "cuda"]),
        ("--trainer.accelerator=tpu", ["torch_xla"]),
        ("--trainer.devices=0", ["devices='0'", "cpu"]),
        ("--trainer.strategy=nonesuch", ["strategy='nonesuch' is no strategy; known: auto, "]),
        ("--trainer.strategy=dpp", ["trainer.strategy='dpp' is no strategy; did you mean 'ddp'?"]),
    ],
)
def test_device_that_is_not_there(flag: str, words: list[str], project: Path) -> None:
    assert_says(run(project, *FIT, flag).complaint, *words)
    assert nothing_is_left(project)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_gpu_that_is_not_there(project: Path) -> None:
    complaint = run(project, *FIT, "--trainer.accelerator=cuda").complaint
    assert_says(complaint, "CUDA", "not available", "'cpu'")
    assert nothing_is_left(project)


# ---- runs and checkpoints ----


def test_run_folder_that_is_taken(finished: FinishedRun, project: Path) -> None:
    complaint = run(project, *FIT, f"--run_dir={finished.run_dir}").complaint
    assert_says(complaint, f"{finished.run_dir} holds a run already", "--ckpt_path last")


def test_run_folder_that_is_a_file(project: Path) -> None:
    assert run(project, *FIT, "--run_dir=input.txt").complaint == (
        "--run_dir input.txt is a file; name a folder"
    )
    assert_says(run(project, *FIT, "--run_dir=input.txt/a").complaint, "Not a directory", "input")
    assert (project / "input.txt").is_file()


@pytest.mark.parametrize(
    "arguments",
    [("fit", "--ckpt_path=last"), ("validate",), ("test",), ("predict",)],
    ids=lambda arguments: arguments[0],
)
def test_no_run_to_start_from(arguments: tuple[str, ...], project: Path) -> None:
    complaint = run(project, *arguments, "--config", "tiny.yaml").complaint
    assert_says(complaint, "no run to start from", "runs/tiny/latest", "--run_dir", "--ckpt_path")


def test_run_to_continue_that_is_not_there(project: Path) -> None:
    complaint = run(project, *FIT, "--run_dir=nonesuch", "--ckpt_path=last").complaint
    assert complaint == "--run_dir nonesuch holds no run to continue"


def test_missing_checkpoint(project: Path) -> None:
    complaint = run(project, "validate", "--config=tiny.yaml", "--ckpt_path=a.ckpt").complaint
    assert_says(complaint, "a.ckpt does not exist")


@pytest.fixture
def spoiled(
    finished: FinishedRun, project: Path
) -> Callable[[Callable[[dict[str, Any]], Any]], str]:
    """Writes spoiled.ckpt: the finished run's checkpoint with a change."""

    def spoil(change: Callable[[dict[str, Any]], Any]) -> str:
        content = torch.load(finished.checkpoint, weights_only=True)
        change(content)
        torch.save(content, project / "spoiled.ckpt")
        return "spoiled.ckpt"

    return spoil


READERS = [
    pytest.param(("generate", "CKPT", "--prompt", "a"), id="generate"),
    pytest.param((*FIT, "--ckpt_path=CKPT"), id="fit"),
    pytest.param(("validate", "--config=tiny.yaml", "--ckpt_path=CKPT"), id="validate"),
]


def read(project: Path, reader: tuple[str, ...], checkpoint: str) -> str:
    return run(project, *(word.replace("CKPT", checkpoint) for word in reader)).complaint


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_checkpoint_cut_short(
    share: float, reader: tuple[str, ...], finished: FinishedRun, project: Path
) -> None:
    whole = finished.checkpoint.read_bytes()
    (project / "cut.ckpt").write_bytes(whole[: int(len(whole) * share)])
    complaint = read(project, reader, "cut.ckpt")
    assert complaint == (
        "cut.ckpt is not a whole checkpoint, it was cut short or altered; "
        "there is no whole one beside it"
    )
    assert nothing_is_left(project)


@pytest.mark.parametrize("reader", READERS)
def test_checkpoint_of_a_newer_format(
    reader: tuple[str, ...], spoiled: Callable[..., str], project: Path
) -> None:
    name = spoiled(lambda content: content["lit_gpt_kit"].update(format_version=99))
    complaint = read(project, reader, name)
    assert_says(complaint, "spoiled.ckpt is of format 99, newer than format 1", "upgrade")
    assert nothing_is_left(project)


def test_checkpoint_of_another_network(finished: FinishedRun, project: Path) -> None:
    complaint = run(project, *FIT, QUIET, f"--ckpt_path={finished.checkpoint}").complaint
    assert_says(complaint, "another network: num_layers=2 (checkpoint: 3)")
    assert nothing_is_left(project)


def test_checkpoint_of_another_tokenizer(finished: FinishedRun, project: Path) -> None:
    flags = ["--model.gpt.num_layers=3", "--data.tokenizer.special_tokens=['<|end|>']"]
    checkpoint = f"--ckpt_path={finished.checkpoint}"
    complaint = run(project, *FIT, QUIET, *flags, checkpoint).complaint
    assert_says(complaint, "trained with another tokenizer than the data's", "that tokenizer's")
    assert nothing_is_left(project)


def test_weights_that_do_not_fit_their_configuration(
    spoiled: Callable[..., str], project: Path
) -> None:
    name = spoiled(lambda content: content["lit_gpt_kit"]["gpt"].update(num_layers=4))
    complaint = run(project, "generate", name, "--prompt", "a").complaint
    assert_says(complaint, "spoiled.ckpt: weights and configuration do not fit", "blocks.3")


def test_weights_of_another_vocabulary_than_the_tokenizer(
    spoiled: Callable[..., str], project: Path
) -> None:
    def shrink(content: dict[str, Any]) -> None:
        content["lit_gpt_kit"]["gpt"]["vocab_size"] = 100
        for name in ("model.token_embedding.weight", "model.lm_head.weight"):
            content["state_dict"][name] = content["state_dict"][name][:100].clone()

    complaint = run(project, "generate", spoiled(shrink), "--prompt", "a").complaint
    assert_says(complaint, "spoiled.ckpt", "vocab_size=100", "257")


# ---- a full disk ----


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here ({error})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[Path, str]:
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.parametrize("kind", ["disk", "quota"])
def test_full_disk_while_the_cache_is_written(kind: str, project: Path) -> None:
    cache = project / "cache"
    cache.mkdir()
    full: AbstractContextManager[None] = small_disk(cache) if kind == "disk" else nullcontext()
    (project / "large.txt").write_text("the quick brown fox\n" * 20_000)
    flags = ("--data.cache_dir=cache", "--trainer.fast_dev_run=true")
    with full:
        assert run(project, *FIT, *flags).status == 0
        before = contents(cache)
        assert any(path.name == "tokens.bin" for path in before)
        with small_files() if kind == "quota" else nullcontext():
            result = run(project, *FIT, *flags, "--data.sources=[large.txt]")
        assert_says(result.complaint, "the disk that holds cache", "is full", "free some space")
        left = contents(cache)
        assert {path: left[path] for path in before} == before
        assert sum(path.name == "tokens.bin" for path in left) == 1
        assert run(project, *FIT, *flags).status == 0


# ---- generate ----


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--temperature=-1"], "temperature=-1.0 must be at least 0 (0 is greedy)"),
        (["--temperature=hot"], "temperature: expected float, got hot"),
        (["--top_k=0"], "top_k=0 must be at least 1"),
        (["--top_p=1.5"], "top_p=1.5 must be above 0 and at most 1"),
        (["--min_p=1"], "min_p=1.0 must be at least 0 and below 1"),
        (["--repetition_penalty=0"], "repetition_penalty=0.0 must be above 0"),
        (["--max_new_tokens=0"], "max_new_tokens=0 must be at least 1"),
        (["--num_samples=0"], "num_samples=0 must be at least 1"),
        (["--precision=fp8"], "precision: expected one of 'fp32', 'bf16', 'int8', got fp8"),
        (["--stop", ""], "a stop text is empty; every text contains the empty one"),
        (["--temprature=1"], "unknown key 'temprature'; did you mean 'temperature'?"),
        (["--temp=1"], "unknown key 'temp'; did you mean 'temperature'?"),
        (["--prompts_file=a"], "--prompt and --prompts_file are both given; give one"),
        (["--output=home"], "home is a folder; name a file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_wrong_sampling_option(flags: list[str], complaint: str, finished: FinishedRun) -> None:
    result = run(finished.project, "generate", str(finished.run_dir), "--prompt", "a", *flags)
    assert result.complaint == complaint
    assert result.out == ""


def test_prompt_longer_than_the_block(finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt")
    assert run(finished.project, *arguments, "a" * 16, "--max_new_tokens=1").status == 0
    complaint = run(finished.project, *arguments, "a" * 17).complaint
    assert complaint == (
        "the prompt is 17 tokens long, longer than the model's block_size=16; shorten it"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["does not exist"]),
        (b"\n\n", ["holds no prompt"]),
        (b"caf\xe9", ["not UTF-8 text at offset 3"]),
    ],
)
def test_prompts_file_without_prompts(
    content: bytes | None, words: list[str], finished: FinishedRun, project: Path
) -> None:
    if content is not None:
        (project / "prompts.txt").write_bytes(content)
    arguments = ("generate", str(finished.run_dir), "--prompts_file=prompts.txt")
    assert_says(run(project, *arguments).complaint, "--prompts_file prompts.txt", *words)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nonesuch", ["model 'nonesuch' is no file or folder (from ", "in its cache, "]),
        ("home", ["home is no model: ", "home/checkpoints"]),
        ("tiny.yaml", ["tiny.yaml is not a whole checkpoint"]),
    ],
)
def test_model_that_is_none(model: str, words: list[str], project: Path) -> None:
    (project / "home").mkdir()
    assert_says(run(project, "generate", model, "--prompt", "a").complaint, *words)


def test_no_model_is_named(project: Path) -> None:
    assert run(project, "generate").complaint == "the following arguments are required: model"


# ---- tokenizer ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspct"], ["no command 'tokenizer inspct'", "'inspect'?"]),
        (["inspect", "nonesuch.json", "--text", "a"], ["tokenizer nonesuch.json does not exist"]),
        (["inspect", "input.txt", "--text", "a"], ["input.txt is not a tokenizer.json"]),
        (["inspect", "input.txt"], ["required: text"]),
        (["train", "--sources", "nonesuch", "--output", "a"], ["source nonesuch does not exist"]),
        (["train", "--sources", "input.txt"], ["required: output"]),
        (
            ["train", "--sources", "input.txt", "--output", "a", "--kind", "chars"],
            ["kind: expected one of 'bpe', 'char', 'byte', got chars"],
        ),
        (
            ["train", "--sources", "input.txt", "--output", "a", "--vocab_size", "10"],
            ["vocab_size=10 is too small", "need 257"],
        ),
        (
            ["train", "--sources", "input.txt", "--output", "a", "--kind=byte", "--vocab_size=300"],
            ["vocab_size=300 means nothing for a byte tokenizer"],
        ),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_wrong_tokenizer_argument(arguments: list[str], words: list[str], project: Path) -> None:
    assert_says(run(project, "tokenizer", *arguments).complaint, *words)


# ---- the global batch ----


def test_global_batch_that_does_not_come_out_even(project: Path) -> None:
    complaint = run(project, *FIT, "--data.global_batch_tokens=100").complaint
    assert complaint == (
        "global_batch_tokens=100 is no whole number of micro-batches of batch_size=4 x "
        "block_size=16 = 64 tokens; nearest: 64 and 128"
    )
    assert nothing_is_left(project)

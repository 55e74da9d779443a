"""Fine-tuning by commands: what a run ends in is what generate, predict, merge and export take."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lit_gpt_kit import LanguageModeling, SequenceClassification, Tokenizer, load_model
from lit_gpt_kit.model.lora import lora_layers
from tests.command import run, run_process
from tests.finetuning_project import LABELS, save_base, write_finetuning_project, write_jsonl
from tests.run_dir import only_run, read_metrics

CLASSIFY = ("fit", "--config", "classify.yaml")
CHAT = ("fit", "--config", "chat.yaml")
LORA = "--model.lora.rank=4"
IDS = torch.arange(40)[None] * 7 % 258


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with three runs: labels, labels/adapters and chat; tests read it."""
    project = write_finetuning_project(tmp_path_factory.mktemp("tuned"))
    save_base(project / "base")
    for command in (
        (*CLASSIFY, "--run_dir=labels"),
        (*CLASSIFY, LORA, "--run_dir=adapters"),
        (*CHAT, "--run_dir=chat"),
    ):
        result = run(project, *command)
        assert result.status == 0, result.err
    return project


@pytest.fixture(scope="module")
def moved(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs, the configuration and texts to label, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("labels", "chat", "classify.yaml", "new.jsonl"):
        (folder / name).symlink_to(tuned / name)
    return folder


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(IDS)
    return out


def best(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "best.ckpt"


# ---- a run ----


def test_run_says_what_it_does_and_what_comes_next(finetuning: Path) -> None:
    result = run(finetuning, *CLASSIFY, LORA)
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert "parameters, 6,048 of them trained: 3 layers" in lines[0]  # adapters, and 3 x 32
    assert lines[1].strip().startswith("parts: MLP ")
    assert "32 rows to train on, 8 to validate on, one of 3 labels, from rows.jsonl" in lines[2]
    run_dir = only_run(finetuning, "classify").relative_to(finetuning)
    assert lines[-2] == f"curves: lit-gpt report {run_dir}"
    assert lines[-1] == (
        f"next: lit-gpt predict --config {run_dir}/config.yaml --ckpt_path {run_dir} "
        "--data.predict_sources='[FILE]'"
    )
    assert any(line.strip().startswith("val/accuracy: ") for line in lines)
    assert not any("val/f1_" in line for line in lines)


def test_run_on_conversations_ends_with_an_answer(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(tuned / "base")
    result = run(write_finetuning_project(tmp_path), *CHAT, "--run_dir=my run")
    assert "sample, from the validation rows:" in result.out
    assert result.out.splitlines()[-1] == "next: lit-gpt chat 'my run'"


def test_a_run_on_conversations_chats(tuned: Path) -> None:
    result = run(tuned, "chat", "chat", "--max_new_tokens=8", "--seed=0", stdin="say 3\nsay 4\n")
    assert result.status == 0, result.err
    assert result.out.strip()


def test_conversations_are_predicted_in_the_order_of_the_file(tuned: Path, tmp_path: Path) -> None:
    chats = [{"prompt": "x" * n, "completion": "y"} for n in (9, 1, 30, 4, 2)]
    write_jsonl(tmp_path / "new.jsonl", *chats)
    command = ("predict", "--config=chat.yaml", "--ckpt_path=chat", f"--run_dir={tmp_path}/run")
    result = run(tuned, *command, f"--data.predict_sources=[{tmp_path}/new.jsonl]")
    assert result.status == 0, result.err
    assert "5 rows" in result.out
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").open()]
    tokenizer = load_model(tuned / "chat")[1]
    texts = [tokenizer.decode(row["input_ids"]) for row in rows]
    assert [text.count("x") for text in texts] == [9, 1, 30, 4, 2]


def test_answers_are_scored_as_in_training(finetuning: Path) -> None:
    callback = {
        "class_path": "lit_gpt_kit.GenerationMetrics",
        "init_args": {"metrics": ["exact_match", "chrf"], "max_new_tokens": 6},
    }
    config = yaml.safe_load((finetuning / "chat.yaml").read_text())
    config["trainer"]["callbacks"] = [callback]
    (finetuning / "chat.yaml").write_text(yaml.safe_dump(config))
    chats = [{"prompt": f"say {i}", "completion": f"{i} it is"} for i in range(6)]
    write_jsonl(finetuning / "val.jsonl", *chats)
    flags = ("--data.val_sources=[val.jsonl]", "--data.test_sources=[val.jsonl]")
    result = run(finetuning, *CHAT, *flags, "--run_dir=mine")
    assert result.status == 0, result.err
    with (finetuning / "mine" / "metrics.csv").open() as file:
        trained = [row["val/chrf"] for row in csv.DictReader(file) if row.get("val/chrf")]
    result = run(
        finetuning,
        "test",
        "--config=chat.yaml",
        *flags,
        "--ckpt_path=mine/checkpoints/last.ckpt",
        "--run_dir=tested",
    )
    assert result.status == 0, result.err
    tested = json.loads((finetuning / "tested" / "test.json").read_text())
    assert f"{tested['test/chrf']:.7g}" == trained[-1]
    (*_, last), (only,) = (
        sorted((finetuning / name / "generations").glob("*.jsonl")) for name in ("mine", "tested")
    )
    assert only.read_text() == last.read_text()
    assert tested["test/chrf"] > 0


def test_muon_tunes_adapters_and_goes_on(finetuning: Path) -> None:
    config = yaml.safe_load((finetuning / "chat.yaml").read_text())
    config["model"]["init_args"] |= {
        "layer_lr_decay": 0.5,
        "optimizer": {"class_path": "lit_gpt_kit.MuonAdamW", "init_args": {"lr": 0.02}},
    }
    (finetuning / "chat.yaml").write_text(yaml.safe_dump(config))
    for flags in (
        ("--run_dir=through",),
        ("--run_dir=parts", "--trainer.max_steps=2"),
        ("--run_dir=parts", "--ckpt_path=last"),
    ):
        result = run(finetuning, *CHAT, *flags)
        assert result.status == 0, result.err
    through, parts = (
        torch.load(finetuning / name / "checkpoints" / "last.ckpt") for name in ("through", "parts")
    )
    groups = through["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.02 * 0.5**depth for depth in (1, 2, 3)]
    assert all(group["is_muon"] for group in groups)
    weights = through["state_dict"]
    assert all(torch.equal(weight, parts["state_dict"][name]) for name, weight in weights.items())


def test_config_of_a_run_repeats_it(tuned: Path) -> None:
    for name in ("adapters", "chat"):
        again = run(tuned, "fit", "--config", f"{name}/config.yaml", f"--run_dir={name}-again")
        assert again.status == 0, again.err
        first, second = (torch.load(best(tuned / n))["state_dict"] for n in (name, f"{name}-again"))
        assert first.keys() == second.keys()
        assert all(torch.equal(weight, second[key]) for key, weight in first.items())


@pytest.mark.parametrize("command", [(*CLASSIFY, LORA), CHAT], ids=["classify", "chat"])
def test_stopped_run_goes_on(command: tuple[str, ...], finetuning: Path) -> None:
    for flags in (
        ("--run_dir=through",),
        ("--run_dir=parts", "--trainer.max_steps=2"),
        ("--run_dir=parts", "--ckpt_path=last"),
    ):
        result = run(finetuning, *command, *flags)
        assert result.status == 0, result.err
    assert "going on after step 2" in result.out
    through, parts = (
        torch.load(finetuning / name / "checkpoints" / "last.ckpt")["state_dict"]
        for name in ("through", "parts")
    )
    assert all(torch.equal(weight, parts[name]) for name, weight in through.items())


def test_yaml_reaches_the_adapters(finetuning: Path) -> None:
    config = yaml.safe_load((finetuning / "chat.yaml").read_text())
    config["model"]["init_args"] |= {
        "lora": {"rank": 2, "targets": ["mlp"], "use_dora": True, "use_rslora": True},
        "freeze": ["blocks.0"],
        "layer_lr_decay": 0.5,
    }
    (finetuning / "chat.yaml").write_text(yaml.safe_dump(config))
    result = run(finetuning, *CHAT, "--run_dir=mine")
    assert result.status == 0, result.err
    checkpoint = torch.load(best(finetuning / "mine"), weights_only=True)
    lora = checkpoint["lit_gpt_kit"]["adapter"]["lora"]
    assert lora == {
        "rank": 2,
        "alpha": 16.0,
        "dropout": 0.0,
        "targets": ("mlp",),
        "use_dora": True,
        "use_rslora": True,
    }
    weights = checkpoint["state_dict"]
    assert {name.split(".")[3] for name in weights} == {"mlp"}
    assert any(".magnitude." in name for name in weights)
    up = [weight for name, weight in weights.items() if ".b." in name and ".blocks.0." in name]
    assert up
    assert not any(weight.any() for weight in up)
    rates = [group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]]
    assert rates == pytest.approx([0.005, 0.005, 0.0025, 0.0025])  # matrices, and DoRA's lengths


@pytest.mark.parametrize("weights", ["balanced", "{0: 1.0, 1: 3.0}"])
def test_labels_may_be_numbers(weights: str, finetuning: Path) -> None:
    write_jsonl(finetuning / "n.jsonl", *({"text": f"a {i}", "label": i % 2} for i in range(20)))
    flags = ("--data.sources=[n.jsonl]", f"--model.class_weights={weights}", "--run_dir=mine")
    result = run(finetuning, *CLASSIFY, *flags)
    assert result.status == 0, result.err
    settings = torch.load(best(finetuning / "mine"), weights_only=True)["hyper_parameters"]
    expected = [1.0, 1.0] if weights == "balanced" else [1.0, 3.0]
    assert settings["class_weights"] == dict(zip("01", expected, strict=True))


# ---- before training ----


def measured(project: Path, *flags: str) -> dict[str, float]:
    result = run(project, "validate", *flags)
    assert result.status == 0, result.err
    path = project / result.out.split("written to ")[1].strip()
    metrics: dict[str, float] = json.loads(path.read_text())
    return metrics


def test_pretrained_model_is_measured_as_it_is(finetuning: Path) -> None:
    before = ("--config", "chat.yaml", "--ckpt_path", "pretrained")
    adapters = measured(finetuning, *before)
    run_dir = only_run(finetuning, "chat")
    assert not (run_dir.parent / "latest").exists()  # no run to go on from
    assert measured(finetuning, *before, "--model.lora=null") == pytest.approx(adapters)
    # A step that changes nothing is validated alike.
    flags = ("--model.optimizer.lr=0", "--trainer.max_steps=1", "--trainer.val_check_interval=1")
    assert run(finetuning, *CHAT, *flags, "--run_dir=mine").status == 0
    assert read_metrics(finetuning / "mine")[-1]["val/loss"] == pytest.approx(
        adapters["val/loss"], rel=1e-6
    )


@pytest.mark.parametrize("command", ["test", "predict"])
def test_pretrained_model_is_tested_and_predicts(command: str, finetuning: Path) -> None:
    flags = ("--config", "classify.yaml", "--ckpt_path", "pretrained", "--run_dir=mine")
    result = run(finetuning, command, *flags)
    assert result.status == 0, result.err
    assert (finetuning / "mine" / "config.yaml").exists()


# ---- labels for texts ----


def predicted(project: Path, output: str, *flags: str) -> list[dict[str, Any]]:
    command = ("predict", "--config", "classify.yaml", "--data.predict_sources=[new.jsonl]")
    result = run(project, *command, *flags, f"--output={output}")
    assert result.status == 0, result.err
    assert result.out == f"written to {output}, 3 rows\n"
    path = project / output
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected_shares(run_dir: Path) -> Tensor:
    task = SequenceClassification.load_from_checkpoint(best(run_dir)).eval()
    assert task.tokenizer is not None
    rows = [task.tokenizer.encode(text) for text in ("eee 7", "a long text", "cc")]
    with torch.no_grad():
        scores = [task(torch.tensor([row]), torch.tensor([len(row) - 1])) for row in rows]
    return torch.cat(scores).softmax(-1)


def test_labels_without_base_and_rows_to_train_on(moved: Path, tmp_path: Path) -> None:
    expected = expected_shares(moved / "labels")
    lines = predicted(moved, str(tmp_path / "a" / "out.jsonl"), "--ckpt_path=labels")
    assert [line["text"] for line in lines] == ["eee 7", "a long text", "cc"]
    for line, row in zip(lines, expected, strict=True):
        assert list(line["probabilities"]) == list(LABELS)
        actual = torch.tensor(list(line["probabilities"].values()))
        torch.testing.assert_close(actual, row, rtol=1e-4, atol=1e-6)
        assert line["label"] == LABELS[row.argmax()]


def test_labels_as_a_table(moved: Path, tmp_path: Path) -> None:
    expected = expected_shares(moved / "labels")
    lines = predicted(moved, str(tmp_path / "out.csv"), "--ckpt_path=labels")
    assert [line["row"] for line in lines] == ["0", "1", "2"]
    for line, row in zip(lines, expected, strict=True):
        shares = torch.tensor([float(line[f"probabilities.{name}"]) for name in LABELS])
        torch.testing.assert_close(shares, row, rtol=1e-4, atol=1e-6)
        assert float(line["probability"]) == float(shares.max())


def test_labels_by_adapters(tuned: Path, tmp_path: Path) -> None:
    expected = expected_shares(tuned / "adapters")
    flags = (LORA, "--ckpt_path=adapters")
    lines = predicted(tuned, str(tmp_path / "out.jsonl"), *flags)
    actual = torch.tensor([list(line["probabilities"].values()) for line in lines])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_labels_in_another_process(moved: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    command = ("predict", "--config", "classify.yaml", "--ckpt_path=labels")
    flags = ("--data.predict_sources=[new.jsonl]", f"--output={output}")
    result = run_process(moved, *command, *flags)
    assert (result.status, result.err) == (0, "")
    assert len(output.read_text().splitlines()) == 3


@pytest.mark.parametrize("tokenizer", ["--data.tokenizer=null", "--data.tokenizer.kind=byte"])
def test_labels_by_a_model_from_scratch(tokenizer: str, finetuning: Path) -> None:
    gpt = ("num_layers=1", "num_heads=2", "embed_dim=16", "block_size=32")
    scratch = ("--model.pretrained=null", tokenizer, *(f"--model.gpt.{word}" for word in gpt))
    result = run(finetuning, *CLASSIFY, *scratch, "--run_dir=mine")
    assert result.status == 0, result.err
    (finetuning / "rows.jsonl").unlink()
    lines = predicted(finetuning, "out.jsonl", *scratch, "--ckpt_path=mine")
    assert len(lines) == 3


def test_measures_a_file_with_labels(tuned: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", *({"text": f"ddd {i}", "label": "dog"} for i in range(5)))
    flags = ("--config", "classify.yaml", "--ckpt_path=labels", f"--run_dir={tmp_path / 'mine'}")
    result = run(tuned, "test", *flags, f"--data.test_sources=[{tmp_path / 't.jsonl'}]")
    assert result.status == 0, result.err
    metrics = json.loads((tmp_path / "mine" / "test.json").read_text())
    task = SequenceClassification.load_from_checkpoint(best(tuned / "labels")).eval()
    assert task.tokenizer is not None
    rows = [task.tokenizer.encode(f"ddd {i}") for i in range(5)]
    with torch.no_grad():
        scores = torch.cat([task(torch.tensor([row]), torch.tensor([4])) for row in rows])
    right = (scores.argmax(-1) == 1).float().mean()
    assert metrics["test/accuracy"] == pytest.approx(float(right))
    # One label, one weight: the mean does not know it.
    nats = torch.nn.functional.cross_entropy(scores, torch.ones(5, dtype=torch.long))
    assert metrics["test/loss"] == pytest.approx(float(nats), rel=1e-5)


def test_validation_after_training_says_what_training_said(tuned: Path, tmp_path: Path) -> None:
    last = read_metrics(tuned / "labels")[-1]
    flags = ("--config", "classify.yaml", "--ckpt_path=labels/checkpoints/last.ckpt")
    metrics = measured(tuned, *flags, f"--run_dir={tmp_path}")
    for name in ("val/loss", "val/accuracy", "val/f1", "val/auroc"):
        assert metrics[name] == pytest.approx(last[name], rel=1e-5), name


# ---- adapters, wherever a MODEL is taken ----


def test_adapters_are_a_model(tuned: Path) -> None:
    task = LanguageModeling.load_from_checkpoint(best(tuned / "chat"))
    assert lora_layers(task.network)
    expected, before = logits(task), logits(load_model(tuned / "base")[0])
    assert (expected - before).abs().max() > 0.01
    model, tokenizer = load_model(tuned / "chat")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert tokenizer.fingerprint == Tokenizer.from_file(tuned / "base").fingerprint


def test_adapters_write_the_same_text(tuned: Path) -> None:
    task = LanguageModeling.load_from_checkpoint(best(tuned / "chat"))
    text = task.generate("say 3", max_new_tokens=12, temperature=0.0)
    flags = ("--max_new_tokens=12", "--temperature=0", "--output=out.jsonl")
    result = run(tuned, "generate", "chat", "--prompt", "say 3", *flags)
    assert result.status == 0, result.err
    assert json.loads((tuned / "out.jsonl").read_text())["text"] == text


@pytest.mark.parametrize(
    "command",
    [("merge",), ("export", "--format=huggingface"), ("export", "--format=peft")],
    ids=lambda command: "-".join(command),
)
def test_adapters_are_given_back(command: tuple[str, ...], tuned: Path, tmp_path: Path) -> None:
    name, *flags = command
    folder = tmp_path / "out"
    result = run(tuned, name, "chat", str(folder), *flags)
    assert result.status == 0, result.err
    expected = logits(LanguageModeling.load_from_checkpoint(best(tuned / "chat")))
    torch.testing.assert_close(logits(load_model(folder)[0]), expected, rtol=1e-4, atol=1e-4)


def test_adapters_on_merged_weights_begin_where_training_ended(tuned: Path, tmp_path: Path) -> None:
    assert run(tuned, "merge", "chat", str(tmp_path / "merged")).status == 0
    flags = ("--config", "chat.yaml", "--ckpt_path=pretrained")
    found = measured(
        tuned, *flags, f"--model.pretrained={tmp_path / 'merged'}", f"--run_dir={tmp_path / 'a'}"
    )
    chat = ("--config", "chat.yaml", "--ckpt_path=chat")
    assert found["val/loss"] == pytest.approx(
        measured(tuned, *chat, f"--run_dir={tmp_path / 'b'}")["val/loss"], rel=1e-4
    )


# ---- two processes ----


@pytest.mark.slow
@pytest.mark.parametrize("command", [(*CLASSIFY, LORA), CHAT], ids=["classify", "chat"])
def test_adapters_of_two_processes_are_those_of_one(
    command: tuple[str, ...], finetuning: Path
) -> None:
    ddp = ("--trainer.devices=2", "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy")
    gloo = ("--trainer.strategy.process_group_backend=gloo",)
    two = run_process(finetuning, *command, *ddp, *gloo, "--data.batch_size=2", "--run_dir=two")
    one = run_process(finetuning, *command, "--data.batch_size=4", "--run_dir=one")
    assert (two.status, one.status) == (0, 0), two.err + one.err
    for ours, theirs in zip(
        read_metrics(finetuning / "two"), read_metrics(finetuning / "one"), strict=True
    ):
        for name in ("train/loss", "train/grad_norm", "val/loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, nan_ok=True), name
    ours, theirs = (
        torch.load(best(finetuning / name), weights_only=True)["state_dict"]
        for name in ("two", "one")
    )
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_write_one_file(tuned: Path, tmp_path: Path) -> None:
    ddp = ("--trainer.devices=2", "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy")
    gloo = ("--trainer.strategy.process_group_backend=gloo",)
    command = ("predict", "--config", "classify.yaml", "--ckpt_path=labels")
    flags = ("--data.predict_sources=[new.jsonl]", "--data.batch_size=1")
    out = tmp_path / "out.jsonl"
    result = run_process(tuned, *command, *flags, *ddp, *gloo, f"--output={out}")
    assert result.status == 0, result.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    rows = [json.loads(line)["row"] for line in out.read_text().splitlines()]
    assert rows == [0, 1, 2]


@pytest.mark.parametrize("command", ["generate", "chat", "export", "merge"])
def test_classifier_writes_no_text(tuned: Path, tmp_path: Path, command: str) -> None:
    run_dir = tuned / "labels"
    more = {"generate": ["--prompt", "a"], "chat": []}.get(command, [str(tmp_path / "out")])
    result = run(tuned, command, str(run_dir), *more)
    assert "best.ckpt is a classifier (cat, dog, eel), which writes no text" in result.complaint
    assert "lit-gpt predict --ckpt_path" in result.complaint
    assert not (tmp_path / "out").exists()

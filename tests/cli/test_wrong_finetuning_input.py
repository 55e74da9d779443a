"""What is wrong in fine-tuning gets one clear line and exit status 2, and nothing is left of it."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.test_wrong_input import assert_says, nothing_is_left
from tests.command import run, run_process
from tests.finetuning_project import save_base, write_jsonl
from tests.run_dir import read_metrics
from tests.transformers_models import build, save

CLASSIFY = ("fit", "--config", "classify.yaml")
CHAT = ("fit", "--config", "chat.yaml")


def complaint_of(project: Path, *command: str) -> str:
    """The one line, of a command that leaves no run behind."""
    complaint = run(project, *command).complaint
    assert nothing_is_left(project)
    return complaint


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name, weight = next(iter(weights.items()))
    save_file({**weights, name: weight + 1e-3}, folder / "model.safetensors", {"format": "pt"})


# ---- labels ----


@pytest.mark.parametrize(
    ("rows", "flags", "words"),
    [
        (
            [{"text": "a", "labl": "x"}],
            [],
            ["rows.jsonl, line 1: no field 'label'", "'text', 'labl'", "(set label_column)"],
        ),
        (
            [{"body": "a", "label": "x"}],
            [],
            ["rows.jsonl, line 1: no field 'text'", "'body', 'label'", "(set text_columns)"],
        ),
        ([{"text": "a", "label": "x"}] * 9, [], ["every row of rows.jsonl has the label 'x'"]),
        (
            [{"text": "a", "label": "x"}, {"text": " ", "label": "y"}],
            [],
            ["rows.jsonl, line 2: field 'text' is empty; remove the row"],
        ),
        (
            [{"text": "a", "label": "x"}, {"text": "b", "label": None}],
            [],
            ["rows.jsonl, line 2: field 'label' is no label: None; use a name or a number"],
        ),
        (
            [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
            ["--data.label_names=[x, z]"],
            ["rows.jsonl, line 2: label 'y' is not among label_names"],
        ),
    ],
    ids=["label", "text", "one", "empty", "null", "given"],
)
def test_rows_with_labels(
    rows: list[dict[str, Any]], flags: list[str], words: list[str], finetuning: Path
) -> None:
    write_jsonl(finetuning / "rows.jsonl", *rows)
    assert_says(complaint_of(finetuning, *CLASSIFY, *flags), *words)


def test_labels_to_validate_on_that_are_not_learned(finetuning: Path) -> None:
    write_jsonl(finetuning / "val.jsonl", {"text": "a", "label": "dgo"})
    assert complaint_of(finetuning, *CLASSIFY, "--data.val_sources=[val.jsonl]") == (
        "val.jsonl, line 1: label 'dgo' was not seen in training; did you mean 'dog'?"
    )


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        (
            '--model.class_weights={"dgo": 2.0}',
            "class_weights names 'dgo', which is no label; did you mean 'dog'?",
        ),
        ('--model.class_weights={"dog": -2.0}', "class_weights: -2.0 of 'dog' must be at least 0"),
        (
            "--model.class_weights=balansed",
            "model.class_weights: expected one of 'balanced', got balansed",
        ),
    ],
)
def test_weights_of_labels(flag: str, complaint: str, finetuning: Path) -> None:
    assert complaint_of(finetuning, *CLASSIFY, flag) == complaint


@pytest.fixture
def labels(finetuning: Path) -> Path:
    """A project with a run of classification in the folder `mine`."""
    result = run(finetuning, *CLASSIFY, "--trainer.max_steps=2", "--run_dir=mine")
    assert result.status == 0, result.err
    return finetuning


def test_labels_that_the_checkpoint_does_not_have(labels: Path) -> None:
    write_jsonl(labels / "dogs.jsonl", {"text": "a", "label": "dogs"})
    unseen = "dogs.jsonl, line 1: label 'dogs' was not seen in training; did you mean 'dog'?"
    for command, split in (("test", "test"), ("validate", "val")):
        flags = ("--ckpt_path=mine", f"--data.{split}_sources=[dogs.jsonl]")
        assert complaint_of(labels, command, "--config", "classify.yaml", *flags) == unseen

    write_jsonl(labels / "other.jsonl", *({"text": "a", "label": n} for n in ("no", "yes") * 9))
    flags = ("--run_dir=mine", "--ckpt_path=last", "--data.sources=[other.jsonl]")
    assert complaint_of(labels, *CLASSIFY, *flags) == (
        "the checkpoint tells apart cat, dog, eel, the data no, yes; train on the same labels, in "
        "the same order"
    )
    assert read_metrics(labels / "mine")[-1]["step"] == 2  # the run is as it was


def test_checkpoint_of_another_task(labels: Path) -> None:
    flags = ("--model.lora=null", "--ckpt_path=mine")
    complaint = run(labels, "validate", "--config", "chat.yaml", *flags)
    last = complaint.err.splitlines()[-1]
    assert complaint.status == 2
    assert last == (
        "lit-gpt: the checkpoint is not of a LanguageModeling like this one: head.weight is in the "
        "checkpoint alone, and 0 more differ; use the task it was trained with"
    )


def test_predictions_in_no_format(labels: Path) -> None:
    predict = ("predict", "--config", "classify.yaml", "--ckpt_path=mine")
    for output, words in (
        ("out.txt", "out.txt is of no format to write predictions in; use .jsonl or .csv"),
        ("rows.jsonl/out.csv", "rows.jsonl/out.csv cannot be written: rows.jsonl is a file"),
    ):
        assert complaint_of(labels, *predict, f"--output={output}") == words


def test_nothing_to_predict(labels: Path) -> None:
    predict = ("predict", "--config", "classify.yaml", "--ckpt_path=mine", "--data.val_fraction=0")
    complaint = run(labels, *predict).err.splitlines()[-1]
    assert complaint == "lit-gpt: there is nothing to predict; name it as predict_sources"


def test_one_class_in_validation_is_a_warning_and_no_number(finetuning: Path) -> None:
    write_jsonl(finetuning / "dev.jsonl", *({"text": f"a {i}", "label": "dog"} for i in range(5)))
    with pytest.warns(UserWarning, match="no val/auroc and val/average_precision: the rows of val"):
        result = run(finetuning, *CLASSIFY, "--data.val_sources=[dev.jsonl]", "--run_dir=mine")
    assert result.status == 0, result.err
    last = read_metrics(finetuning / "mine")[-1]
    assert "val/accuracy" in last
    assert "val/auroc" not in last


# ---- conversations ----


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"prompt": "a", "completion": "b"}, {"ask": "a", "reply": "b"}],
            ["chats.jsonl, line 2: the row has no known shape; keys there: 'ask', 'reply'"],
        ),
        (
            [
                {
                    "messages": [
                        {"role": "assistant", "content": "x"},
                        {"role": "user", "content": "y"},
                    ]
                }
            ],
            ["chats.jsonl, line 1: message 1 is from the assistant, but it is the user's turn"],
        ),
        (
            [{"messages": [{"role": "usr", "content": "x"}]}],
            ["chats.jsonl, line 1: ", "'usr'"],
        ),
        ([{"prompt": "a", "completion": ""}], ["chats.jsonl, line 1: ", "empty", "skip_empty"]),
    ],
    ids=["shape", "order", "role", "empty"],
)
def test_rows_that_are_no_conversations(
    rows: list[dict[str, Any]], words: list[str], finetuning: Path
) -> None:
    write_jsonl(finetuning / "chats.jsonl", *rows)
    assert_says(complaint_of(finetuning, *CHAT), *words)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m.content ", ["the chat template is not valid Jinja"]),
        (
            "{{ raise_exception('no such words') }}",
            ["the chat template refuses the conversation: no such words"],
        ),
    ],
    ids=["broken", "refuses"],
)
def test_chat_template(template: str, words: list[str], finetuning: Path) -> None:
    (finetuning / "mine.jinja").write_text(template)
    complaint = complaint_of(finetuning, *CHAT, "--data.chat_template=mine.jinja")
    assert_says(complaint, "chats.jsonl, line 1: ", *words)


def test_no_row_is_left(finetuning: Path) -> None:
    flags = ("--data.too_long=drop", "--data.block_size=4")
    assert complaint_of(finetuning, *CHAT, *flags) == (
        "no row of chats.jsonl is left to train on: 38 too long and dropped; raise block_size=4, "
        "or cut what is too long (too_long: cut)"
    )


def test_no_row_is_left_in_a_process_of_its_own(finetuning: Path) -> None:
    # Within this one a warning would not reach stderr.
    result = run_process(finetuning, *CHAT, "--data.too_long=drop", "--data.block_size=4")
    assert result.complaint.startswith("no row of chats.jsonl is left to train on: 38 too long")


# ---- the model ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.pretrained=nonesuch/x.ckpt"], ["model nonesuch/x.ckpt does not exist"]),
        (["--model.pretrained=nonesuch"], ["model 'nonesuch' is no file or folder"]),
        (["--model.pretrained=cache"], ["cache is no model", "config.json", "checkpoint in"]),
        (["--model.pretrained=null"], ["lora adapts a model that is there; set pretrained"]),
        (
            ["--model.lora.targets=[q_proj]"],
            ["'q_proj' of LoRA matches no layer", "there are attention.q, attention.k", "mlp.down"],
        ),
        (["--model.freeze=[bloks]"], ["'bloks' of what to freeze matches no", "mlp.down"]),
        (["--model.freeze=['*']"], ["freeze=['*'] leaves nothing to train"]),
        (["--model.layer_lr_decay=2"], ["layer_lr_decay=2.0 must be above 0 and at most 1"]),
        (["--model.lora.rank=0"], ["rank=0 of LoRA must be at least 1"]),
        (
            ["--model.gpt.num_layers=5"],
            ["gpt.num_layers=5 is not what pretrained=base has, 3; leave it out"],
        ),
        (
            ["--data.tokenizer.kind=bpe", "--data.tokenizer.vocab_size=280"],
            ["the data's tokenizer is not that of pretrained=base; leave data.init_args.tokenizer"],
        ),
        (
            ["--ckpt_path=pretrained"],
            ["measures a model before it is trained", "leave --ckpt_path"],
        ),
    ],
    ids=lambda value: value[0].partition("=")[0] + value[0][-6:] if "--" in value[0] else "",
)
def test_model_that_cannot_be(flags: list[str], words: list[str], finetuning: Path) -> None:
    (finetuning / "cache").mkdir()
    assert_says(complaint_of(finetuning, *CHAT, *flags), *words)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--model.lora.rnk=3", ["model.lora: ", "LoRAConfig", "'rnk'", "'rank'?"]),
        ("--model.lor.rank=3", ["model: ", "'lor'", "'lora'?"]),
        ("--data.template.promt=x", ["data.template: ", "RowTemplate", "'promt'", "'prompt'?"]),
        ("--data.pak=true", ["data: ", "InstructionDataModule", "'pak'", "'pack'?"]),
        ("--model.pretraind=base", ["model: ", "'pretraind'", "'pretrained'?"]),
    ],
)
def test_unknown_key(flag: str, words: list[str], finetuning: Path) -> None:
    assert_says(complaint_of(finetuning, *CHAT, flag), *words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.pretrained=null", "--model.lora=null"], "set model.init_args.pretrained, the"),
        (["--model.pretrained=nonesuch"], "model 'nonesuch' is no file or folder"),
        (["--data.sources=[nonesuch.jsonl]"], "source nonesuch.jsonl does not exist"),
    ],
)
def test_nothing_to_measure_before_training(flags: list[str], words: str, finetuning: Path) -> None:
    command = ("validate", "--config", "chat.yaml", "--ckpt_path=pretrained")
    assert_says(complaint_of(finetuning, *command, *flags), words)


def test_adapters_of_another_base(finetuning: Path) -> None:
    (finetuning / "base").unlink()
    save_base(finetuning / "base")
    save(build("llama", "grouped", max_position_embeddings=256), finetuning / "other")
    assert run(finetuning, *CHAT, "--run_dir=mine").status == 0
    go_on = (*CHAT, "--run_dir=mine", "--ckpt_path=last", "--trainer.max_steps=6")
    other = complaint_of(finetuning, *go_on, "--model.pretrained=other")
    assert_says(other, "another network: num_kv_heads=2 (checkpoint: 4)")
    rank = complaint_of(finetuning, *go_on, "--model.lora.rank=8")
    assert_says(rank, "adapters are of another kind: rank=8 (checkpoint: 4)")
    alone = complaint_of(finetuning, *go_on, "--model.lora=null")
    assert_says(alone, "the checkpoint holds adapters alone; give model.init_args.lora")
    change_weights(finetuning / "base")
    base = finetuning / "base"
    changed = complaint_of(finetuning, *go_on)
    assert_says(changed, f"adapters belong to {base} (sha256 ", f"not to pretrained={base} (")
    generate = complaint_of(finetuning, "generate", "mine", "--prompt=a")
    assert_says(generate, "adapters for another base", "lit-gpt merge")
    (finetuning / "base").rename(finetuning / "gone")
    generate = complaint_of(finetuning, "generate", "mine", "--prompt=a")
    assert_says(generate, "holds adapters alone, and their base is not there", "--base MODEL")


def test_block_longer_than_the_models(finetuning: Path) -> None:
    complaint = complaint_of(finetuning, *CHAT, "--data.block_size=4096")
    assert complaint.startswith("data.block_size=4096 is longer than the model's, ")
    assert complaint.endswith("; lower it, or leave it out")

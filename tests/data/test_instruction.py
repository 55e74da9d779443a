"""InstructionDataModule: rows of every shape to batches in which the answers alone are learned."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_gpt_kit import InstructionDataModule, LanguageModeling
from lit_gpt_kit.data import chat_store
from lit_gpt_kit.data.row_template import RowTemplate
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.loss import IGNORE_INDEX
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig
from tests.conftest import shared_data
from tests.tiny import TINY, make_trainer

BYTES = TokenizerConfig("byte")
Rows = list[dict[str, Any]]
BATCH = {"input_ids", "targets", "target_positions", "row"}


def some_rows(num_rows: int = 40) -> Rows:
    """Questions and answers of many lengths, each with its number in it."""
    return [
        {"prompt": f"q{n} " + "?" * (n * 7 % 20), "completion": f"a{n}" + "!" * (n * 5 % 13)}
        for n in range(num_rows)
    ]


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., InstructionDataModule]:
    """Builds a data module on these rows, or on `some_rows`, with a cache of the test's own."""

    def make(rows: Rows | None = None, **changes: Any) -> InstructionDataModule:
        if "sources" not in changes:
            found = some_rows() if rows is None else rows
            changes["sources"] = [write(tmp_path / "rows.jsonl", found)]
        options = {"tokenizer": BYTES, "block_size": 256, "batch_size": 4, "seed": 0}
        options |= {"cache_dir": str(tmp_path / "cache")} | changes
        return InstructionDataModule(**options)

    return make


MakeData = Callable[..., InstructionDataModule]


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was encoded, which a cache should save."""
    done: list[str] = []
    encode = chat_store.encode_training_chats

    def encode_and_note(*args: Any) -> Any:
        done.append("encode")
        return encode(*args)

    monkeypatch.setattr(chat_store, "encode_training_chats", encode_and_note)
    return done


def ready(data: InstructionDataModule, stage: str | None = "fit") -> InstructionDataModule:
    data.prepare_data()
    data.setup(stage)
    return data


def refusal(data: InstructionDataModule) -> str:
    with pytest.raises(InputError) as caught:
        ready(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def learned(tokenizer: Tokenizer, batch: dict[str, Tensor]) -> list[str]:
    """The texts on which loss falls, a row each; fillers have none."""
    rows = [row[row != IGNORE_INDEX].tolist() for row in batch["targets"]]
    return [tokenizer.decode(ids) for ids in rows if ids]


def all_learned(data: InstructionDataModule, loader: Any) -> list[str]:
    return sorted(text for batch in loader for text in learned(data.tokenizer, batch))


def an_epoch(data: InstructionDataModule) -> list[dict[str, Tensor]]:
    loader = data.train_dataloader()
    return list(islice(loader, len(loader)))


def answers(rows: Rows) -> list[str]:
    return sorted(row["completion"] + "<|im_end|>" for row in rows)


# ---- batches ----


def test_batches(make_data: MakeData) -> None:
    data = ready(make_data(val_fraction=0.2))
    rows = some_rows()
    batches = an_epoch(data)
    assert len(batches) == 8
    for batch in batches:
        assert set(batch) == BATCH
        assert batch["input_ids"].dtype == batch["targets"].dtype == torch.int64
        assert batch["input_ids"].shape == batch["targets"].shape
        flat = batch["targets"].flatten()
        assert batch["target_positions"].tolist() == (flat != IGNORE_INDEX).nonzero()[:, 0].tolist()
        for ids, targets in zip(batch["input_ids"], batch["targets"], strict=True):
            text = data.tokenizer.decode(ids.tolist()).rstrip("\0")
            row = rows[int(text.split("\nq")[1].split()[0])]
            assert text == (
                f"<|im_start|>user\n{row['prompt']}<|im_end|>\n"
                f"<|im_start|>assistant\n{row['completion']}<|im_end|"  # the last is a target alone
            )
            # Already shifted: what is guessed at a token stands one later.
            answer = [*row["completion"].encode(), *b"<|im_end|>"]
            start = len(text) - len(answer)
            assert targets[:start].tolist() == [IGNORE_INDEX] * start
            assert targets[start : len(text)].tolist() == answer
            assert set(targets[len(text) :].tolist()) <= {IGNORE_INDEX}
    held_out = all_learned(data, data.val_dataloader())
    assert len(held_out) == 8
    assert sorted([*all_learned(data, batches), *held_out]) == answers(rows)


def test_packed_batches(make_data: MakeData) -> None:
    data = ready(make_data(pack=True, val_fraction=0.2))
    padded = ready(make_data(val_fraction=0.2))
    batches = an_epoch(data)
    assert {*BATCH, "document_ids"} - {"row"} == set(batches[0])
    assert max(batch["input_ids"].shape[1] for batch in batches) <= 256
    # Rows that are read again to fill up the last step may be read twice.
    texts = {text for batch in batches for text in learned(data.tokenizer, batch)}
    split = {part + "<|im_end|>" for text in texts for part in text.split("<|im_end|>")[:-1]}
    assert sorted(split) == all_learned(padded, an_epoch(padded))
    assert len(data.train_rows().lengths) < 32
    assert set(next(iter(data.val_dataloader()))) == BATCH
    assert all_learned(data, data.val_dataloader()) == all_learned(padded, padded.val_dataloader())
    assert "packed rows" in data.describe_steps(10, 1)


def test_a_step_is_the_same_however_it_is_split(make_data: MakeData) -> None:
    wide, narrow = (ready(make_data(batch_size=size)) for size in (8, 2))
    narrow._rank = lambda: (1, 4)  # type: ignore[method-assign]
    whole = learned(wide.tokenizer, next(iter(wide.train_dataloader())))
    assert learned(narrow.tokenizer, next(iter(narrow.train_dataloader()))) == whole[2:4]


def test_what_is_held_out_does_not_depend_on_the_seed(make_data: MakeData) -> None:
    one, other = (ready(make_data(seed=seed, val_fraction=0.2)) for seed in (0, 1))
    assert all_learned(one, one.val_dataloader()) == all_learned(other, other.val_dataloader())
    firsts = [learned(data.tokenizer, next(iter(data.train_dataloader()))) for data in (one, other)]
    assert firsts[0] != firsts[1]


def test_without_validation(make_data: MakeData) -> None:
    data = ready(make_data(val_fraction=0.0))
    assert data.val_dataloader() == data.test_dataloader() == data.predict_dataloader() == []
    assert data.generation_examples("val") == data.generation_examples("test") == []
    assert all_learned(data, an_epoch(data)) == answers(some_rows())
    assert make_data().generation_examples("val") == []  # before it is set up


def test_sources_of_their_own(make_data: MakeData, tmp_path: Path) -> None:
    names = ("val", "test", "predict")
    sources = {
        f"{name}_sources": [
            write(tmp_path / f"{name}.jsonl", [{"prompt": "Which?", "completion": name}])
        ]
        for name in names
    }
    for count, expected in ((3, names), (2, ("val", "test", "test")), (1, ("val", "val", "val"))):
        given = {key: sources[key] for key in list(sources)[:count]}
        data = ready(make_data(**given), None)
        assert len(data.splits["train"].rows.numbers) == 40  # nothing is split off
        loaders = (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
        found = [all_learned(data, loader) for loader in loaders]
        assert found == [[f"{name}<|im_end|>"] for name in expected]
        examples = [data.generation_examples(name) for name in names]
        assert [of_split[0].references for of_split in examples] == [(name,) for name in expected]


# ---- shapes and layouts ----

TURNS = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Thus."},
]


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"messages": TURNS[:2]}, "messages"),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
         "sharegpt"),
        ({"instruction": "Why?", "input": "", "output": "So."}, "alpaca"),
        ({"instruction": "Why?", "instances": [{"input": "", "output": "So."}]}, "self_instruct"),
        ({"prompt": "Why?", "completion": "So."}, "prompt_completion"),
        ({"question": "Why?", "answers": {"text": ["So.", "Thus."]}}, "question_answer"),
    ],
)  # fmt: skip
def test_shapes(make_data: MakeData, row: dict[str, Any], shape: str) -> None:
    for name in (None, shape):
        data = ready(make_data([row] * 4, shape=name, val_fraction=0.0))
        text = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|"
        (batch,) = an_epoch(data)
        assert [data.tokenizer.decode(ids.tolist()) for ids in batch["input_ids"]] == [text] * 4
        assert learned(data.tokenizer, batch) == ["So.<|im_end|>"] * 4


def test_rows_of_several_shapes_in_several_files(make_data: MakeData, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.jsonl", [{"messages": TURNS}, {"prompt": "a", "response": "b"}]),
        write(tmp_path / "b.jsonl", [{"question": "c", "answer": "d"}]),
    ]
    data = ready(make_data(sources=paths, val_fraction=0.0, batch_size=3))
    expected = ["So.<|im_end|>Thus.<|im_end|>", "b<|im_end|>", "d<|im_end|>"]
    assert all_learned(data, an_epoch(data)) == expected


def test_any_columns(make_data: MakeData, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"go {n}\tva {n}\n" for n in range(20)))
    template = RowTemplate("French: {en}", "{fr}", system="Be brief.")
    data = make_data(sources=[str(path)], column_names=["en", "fr"], template=template)
    (batch, *_) = an_epoch(ready(data))
    text = data.tokenizer.decode(batch["input_ids"][0].tolist())
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nFrench: go")
    (example,) = data.generation_examples("val")
    (reference,) = example.references
    question = f"French: go {reference.split()[1]}"
    assert [m["content"] for m in example.messages] == ["Be brief.", question]


@pytest.mark.parametrize(
    ("chat_template", "read", "target"),
    [
        ("chatml", "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|",
         "So.<|im_end|>"),
        ("alpaca", "Below is an instruction that describes a task. Write a response that "
         "appropriately completes the request.\n\n### Instruction:\nWhy?\n\n### Response:\nSo.",
         "So.<|endoftext|>"),
        ("plain", "Why?So.", "So.<|endoftext|>"),
        ("FILE", "Q: Why?\nA: So.", "So.<|endoftext|>"),
    ],
)  # fmt: skip
def test_chat_templates(
    make_data: MakeData, tmp_path: Path, chat_template: str, read: str, target: str
) -> None:
    if chat_template == "FILE":
        chat_template = str(tmp_path / "mine.jinja")
        Path(chat_template).write_text(
            "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA: "
            "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
        )
    data = make_data([{"messages": TURNS[:2]}], chat_template=chat_template, val_fraction=0.0)
    (batch,) = an_epoch(ready(data))
    assert data.tokenizer.decode(batch["input_ids"][0].tolist()) == read
    assert learned(data.tokenizer, batch)[0] == target


def test_answers_that_are_learned(make_data: MakeData) -> None:
    rows = [{"messages": TURNS}]
    for loss_on, expected in (
        ("every", "So.<|im_end|>Thus.<|im_end|>"),
        ("last", "Thus.<|im_end|>"),
    ):
        data = ready(make_data(rows, loss_on=loss_on, val_fraction=0.0, batch_size=1))
        assert all_learned(data, an_epoch(data)) == [expected]


# ---- what is left out ----


def test_long_conversations(make_data: MakeData) -> None:
    # What the network reads: all but the last byte, which is a target alone.
    layout = "<|im_start|>user\naa<|im_end|>\n<|im_start|>assistant\n<|im_end|"
    lengths = {f"{n:02}": len(layout) + 2 + n for n in range(30)}
    rows = [{"prompt": "aa", "completion": f"{n:02}" + "b" * n} for n in range(30)]
    block = 80
    num_long = sum(length > block for length in lengths.values())
    assert 0 < num_long < 30
    cut = ready(make_data(rows, block_size=block, val_fraction=0.0, batch_size=30))
    (batch,) = an_epoch(cut)
    assert batch["input_ids"].shape == (30, block)
    assert cut.splits["train"].num_cut == num_long
    assert f"({num_long} cut to the block)" in cut.describe()
    drop = ready(make_data(rows, block_size=block, too_long="drop", val_fraction=0.0))
    assert drop.splits["train"].num_dropped == num_long
    assert f"({num_long} too long and dropped)" in drop.describe()
    assert set(all_learned(drop, an_epoch(drop))) == {
        row["completion"] + "<|im_end|>" for row in rows if lengths[row["completion"][:2]] <= block
    }


def test_answers_behind_the_block(make_data: MakeData) -> None:
    rows = [{"prompt": "a" * n, "completion": "b"} for n in (1, 2, 30, 31)]
    data = ready(make_data(rows, block_size=62, val_fraction=0.0))
    split = data.splits["train"]
    assert (len(split.rows.numbers), split.num_cut, split.num_without_target) == (2, 0, 2)
    assert "(2 left out since no answer is left in them)" in data.describe()


def test_rows_with_empty_texts(make_data: MakeData) -> None:
    rows = some_rows(9)
    rows[3]["completion"] = " "
    rows[5]["prompt"] = ""
    data = make_data(rows)
    assert refusal(data) == (
        f"{data.sources[0]}, line 4: message 2, from the assistant, is empty; mend the row, or "
        "leave such rows out with skip_empty: true"
    )
    data = ready(make_data(rows, skip_empty=True, val_fraction=0.4))
    counts = [len(split.rows.numbers) for split in data.splits.values()]
    empty = [split.num_empty for split in data.splits.values()]
    assert (sum(counts), sum(empty)) == (7, 2)
    held_out = all_learned(data, data.val_dataloader())
    expected = answers([row for n, row in enumerate(rows) if n not in (3, 5)])
    assert sorted({*all_learned(data, an_epoch(data)), *held_out}) == expected
    references = [example.references[0] for example in data.generation_examples("val")]
    assert sorted(text + "<|im_end|>" for text in references) == held_out


@pytest.mark.parametrize(
    ("too_long", "why"),
    [
        ("cut", "40 left out since no answer is left in them; raise block_size=8"),
        ("drop", "40 too long and dropped; raise block_size=8, or cut what is too long "
         "(too_long: cut)"),
    ],
)  # fmt: skip
def test_no_row_left(make_data: MakeData, too_long: str, why: str) -> None:
    data = make_data(block_size=8, too_long=too_long, val_fraction=0.0)
    assert refusal(data) == f"no row of {data.sources[0]} is left to train on: {why}"
    data.setup("validate")  # where nothing is trained
    assert data.val_dataloader() == []


# ---- examples to answer ----


def test_examples(make_data: MakeData) -> None:
    data = ready(make_data(val_fraction=0.2))
    examples = data.generation_examples("val")
    assert [example.references[0] + "<|im_end|>" for example in examples] == sorted(
        all_learned(data, data.val_dataloader()),
        key=lambda text: int(text[1:].split("!")[0].split("<")[0]),
    )
    prompts = {row["completion"]: row["prompt"] for row in some_rows()}
    for example in examples:
        (message,) = example.messages
        assert message == {"role": "user", "content": prompts[example.references[0]]}
    assert len(data.generation_examples("train")) == 32


def test_examples_of_long_conversations(make_data: MakeData) -> None:
    frame = len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    room = 100 - frame
    rows = [
        {"prompt": "a" * n, "completion": f"{n}" + "b" * 200} for n in range(room - 3, room + 3)
    ]
    data = ready(make_data(rows, block_size=100, val_fraction=0.0))
    examples = data.generation_examples("train")
    # Whole, though what is trained on is cut; those without room for a token are left out.
    assert [example.references[0] for example in examples] == [
        row["completion"] for row in rows[:3]
    ]
    assert data.splits["train"].num_cut == 4  # a full block still has its first token to guess
    many = ready(make_data([{"messages": TURNS}], val_fraction=0.0)).generation_examples("train")
    assert [(list(e.messages), e.references) for e in many] == [(TURNS[:3], ("Thus.",))]


def test_examples_with_several_right_answers(make_data: MakeData) -> None:
    row = {"question": "Which?", "context": "a or b", "answers": ["a", "b", "a"]}
    (example,) = ready(make_data([row], val_fraction=0.0)).generation_examples("train")
    assert example.references == ("a", "b")


# ---- the cache ----


def test_the_second_time_costs_nothing(
    make_data: MakeData, stores: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = ready(make_data())
    assert stores == ["encode"]
    assert "tokenising" in capsys.readouterr().err
    again = {"sources": first.sources}
    for change in (
        {},
        {"batch_size": 2},
        {"block_size": 64},
        {"seed": 3},
        {"val_fraction": 0.5},
        {"pack": True},
        {"too_long": "drop"},
        {"val_sources": first.sources},
    ):
        ready(make_data(**again, **change))
    assert stores == ["encode"]
    assert capsys.readouterr().err == ""


def test_what_changes_the_tokens_changes_the_cache(
    make_data: MakeData, stores: list[str], tmp_path: Path
) -> None:
    rows: Rows = [{"messages": TURNS, "prompt": "a", "completion": "b"} for _ in range(3)]
    sources = make_data(rows).sources
    template = str(tmp_path / "mine.jinja")
    Path(template).write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    changes: list[dict[str, Any]] = [
        {},
        {"loss_on": "last"},
        {"skip_empty": True},
        {"shape": "prompt_completion"},
        {"template": RowTemplate("{prompt}", "{completion}")},
        {"template": RowTemplate("{prompt}?", "{completion}")},
        {"chat_template": "plain"},
        {"chat_template": template},
        {"tokenizer": TokenizerConfig("bpe", 300)},
    ]

    def num_made() -> int:
        stores.clear()
        for change in changes:
            ready(make_data(sources=sources, **{"val_fraction": 0.0, **change}))
        return len(stores)

    assert num_made() == len(changes)
    assert num_made() == 0
    Path(template).write_text("{% for m in messages %}{{ m.content }}|{{ eos_token }}{% endfor %}")
    assert num_made() == 1
    write(Path(sources[0]), [*rows, rows[0]])
    assert num_made() == len(changes)


def test_a_trained_tokenizer_belongs_to_how_rows_are_read(make_data: MakeData) -> None:
    rows = [{"prompt": "abc", "completion": "xyz", "more": "123"} for _ in range(3)]
    sources = make_data(rows).sources
    template = RowTemplate("{prompt}", "{completion}")
    for text, template in (
        ("abcxyz", None),
        ("abc123", RowTemplate("{prompt}", "{more}")),
    ):
        data = make_data(
            sources=sources,
            template=template,
            tokenizer=TokenizerConfig("char", special_tokens=("<|endoftext|>",)),
            chat_template="plain",
            val_fraction=0.0,
        )
        assert set(ready(data).tokenizer.backend.get_vocab()) == {*text, "<|endoftext|>"}


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"val_fraction": 1.0}, "val_fraction=1.0 must be at least 0 and below 1"),
        ({"too_long": "crop"}, "too_long='crop' is unknown; did you mean 'drop'?"),
        ({"shape": "alpaca", "template": RowTemplate("{a}", "{b}")},
         "shape=alpaca and template are both given; give one"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"block_size": -1}, "block_size=-1 must be at least 1"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(make_data: MakeData, options: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        make_data(**options)
    assert str(caught.value) == what


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"shape": "alpca"}, "FILE, line 1: shape='alpca' is unknown; did you mean 'alpaca'?"),
        ({"shape": "alpaca"}, "FILE, line 1: the shape alpaca needs instruction + output/response; "
         "keys there: 'prompt', 'completion'"),
        ({"loss_on": "first"}, "loss_on='first' is unknown; known: every, last"),
        ({"chat_template": "chatmll"}, "chat_template='chatmll' is neither a .jinja file nor a "
         "template that comes with lit_gpt_kit; did you mean 'chatml'?"),
        ({"block_size": None}, "block_size is not given, and there is no model to take it from"),
        ({"sources": ["builtin:python-docs"]}, "builtin:python-docs holds no conversations; name a "
         "file with rows"),
    ],
)  # fmt: skip
def test_what_is_refused(make_data: MakeData, options: Any, what: str) -> None:
    data = make_data(**options)
    assert refusal(data) == what.replace("FILE", data.sources[0])


def test_a_row_of_no_shape_is_named(make_data: MakeData) -> None:
    rows = [*some_rows(3), {"text": "a"}]
    assert ", line 4: the row has no known shape; keys there: 'text'; known: messages" in refusal(
        make_data(rows)
    )


# ---- with a Trainer ----


@pytest.mark.parametrize("pack", [False, True])
def test_in_a_trainer(make_data: MakeData, tmp_path: Path, pack: bool) -> None:
    data = make_data(block_size=None, pack=pack, val_fraction=0.2, batch_size=3)
    task = LanguageModeling(
        gpt=TINY.__class__(num_layers=1, num_heads=2, embed_dim=8, block_size=90)
    )
    trainer = make_trainer(tmp_path, 3, accumulate_grad_batches=2)
    trainer.fit(task, data)
    assert trainer.global_step == 3
    assert data.block_size == 90
    (scores,) = trainer.validate(task, data, verbose=False)
    assert task.tokenizer is not None
    # The same, summed by hand over each conversation alone.
    rows = data.splits["val"].rows
    with torch.no_grad():
        parts = [task.compute_loss(rows.collate(torch.tensor([n]).numpy())) for n in range(8)]
    loss = sum(float(nll) for nll, _ in parts) / sum(int(count) for _, count in parts)
    assert scores["val/loss"] == pytest.approx(loss, rel=1e-5)


def test_a_row_longer_than_the_models_block(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(block_size=64)
    with pytest.raises(InputError, match="block_size=64 is longer than the model's, 8"):
        make_trainer(tmp_path, 1).fit(LanguageModeling(gpt=TINY), data)


# ---- real data ----


@pytest.mark.parametrize(
    ("name", "num_rows", "num_empty"),
    [
        ("sgd_chat/sgd_messages.jsonl.gz", 1152, 0),
        ("alpaca_libre/alpaca_libre.jsonl.gz", 3131, 34),
        ("gsm8k/test.jsonl.gz", 1319, 0),
    ],
)
def test_real_rows(make_data: MakeData, name: str, num_rows: int, num_empty: int) -> None:
    tokenizer = str(shared_data("tokenizers/smollm2"))
    path = str(shared_data(name))
    data = make_data(sources=[path], tokenizer=tokenizer, skip_empty=True, block_size=512)
    ready(data)
    splits = data.splits.values()
    accounted = [
        len(s.rows.numbers) + s.num_dropped + s.num_without_target + s.num_empty for s in splits
    ]
    assert sum(accounted) == num_rows
    assert accounted[1] == num_rows // 20
    assert sum(split.num_empty for split in splits) == num_empty
    batch = next(iter(data.train_dataloader()))
    for text in learned(data.tokenizer, batch):
        assert text.endswith("<|im_end|>") or len(text) > 100  # cut
        assert "<|im_start|>" not in text
    examples = data.generation_examples("val")
    assert len(examples) == accounted[1] or name.startswith(("sgd", "alpaca"))
    assert all(example.messages[-1]["role"] == "user" for example in examples)


def test_rows_lost_in_validation_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": ""}]
    for name in ("train", "val"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    data = InstructionDataModule(
        sources=[str(tmp_path / "train.jsonl")],
        val_sources=[str(tmp_path / "val.jsonl")],
        tokenizer=TokenizerConfig("byte"),
        skip_empty=True,
        block_size=200,
        cache_dir=str(tmp_path / "cache"),
    )
    data.prepare_data()
    with pytest.warns(UserWarning, match=r"val rows of .*val\.jsonl: 1 left out since a text"):
        data.setup("fit")


def test_says_which_rows_a_step_reads(make_data: MakeData) -> None:
    data = ready(make_data(global_batch_size=8))
    loader = data.train_dataloader()
    rows = torch.cat([loader.batch(2 + n)["row"] for n in range(2)])
    assert data.rows_of_step(1) == rows.tolist()
    assert data.describe_rows_of_step(1).startswith(f"rows {rows[0]}, {rows[1]}, ")


def test_says_which_rows_packed_ones_hold(make_data: MakeData) -> None:
    data = ready(make_data(pack=True))
    learned_now = learned(data.tokenizer, data.train_dataloader().batch(0))
    rows = some_rows()
    named = [rows[number]["completion"] for number in data.rows_of_step(0)]
    assert len(named) > 4
    assert all(any(answer in text for text in learned_now) for answer in named)

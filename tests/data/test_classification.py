"""ClassificationDataModule: labelled rows of any file to batches, or refused with a reason."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
import zstandard
from pyarrow import parquet
from torch import Tensor

from lit_gpt_kit import ClassificationDataModule, SequenceClassification
from lit_gpt_kit.data import base
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.conftest import shared_data
from tests.tiny import TINY, make_trainer

BYTES = TokenizerConfig("byte")
Rows = list[dict[str, Any]]
LABELS = ("neg", "neutral", "pos")


def some_rows(num_rows: int = 60) -> Rows:
    """Texts of many lengths, each with its number in it."""
    return [{"text": f"{n} " + "x" * (n * 7 % 50), "label": LABELS[n % 3]} for n in range(num_rows)]


def write_jsonl(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_json(path: Path, rows: Rows) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def write_table(path: Path, rows: Rows) -> str:
    between = "\t" if path.suffix == ".tsv" else ","
    lines = [between.join(rows[0]), *(between.join(map(str, row.values())) for row in rows)]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def write_parquet(path: Path, rows: Rows) -> str:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., ClassificationDataModule]:
    """Builds a data module on these rows, or on `some_rows`, with a cache of the test's own."""

    def make(rows: Rows | None = None, **changes: Any) -> ClassificationDataModule:
        if "sources" not in changes:
            found = some_rows() if rows is None else rows
            changes["sources"] = [write_jsonl(tmp_path / "rows.jsonl", found)]
        options: dict[str, Any] = {"tokenizer": BYTES, "block_size": 64, "batch_size": 4, "seed": 0}
        options |= {"cache_dir": str(tmp_path / "cache")} | changes
        return ClassificationDataModule(**options)

    return make


MakeData = Callable[..., ClassificationDataModule]


def ready(data: ClassificationDataModule, stage: str | None = "fit") -> ClassificationDataModule:
    data.prepare_data()
    data.setup(stage)
    return data


def refusal(data: ClassificationDataModule) -> str:
    with pytest.raises(InputError) as caught:
        ready(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def texts(data: ClassificationDataModule, batch: dict[str, Tensor]) -> list[str]:
    """What stands in a batch, up to each row's last token."""
    return [
        data.tokenizer.decode(ids[: last + 1].tolist())
        for ids, last in zip(batch["input_ids"], batch["last_token"], strict=True)
    ]


def everything(data: ClassificationDataModule, loader: Any) -> list[tuple[str, Any]]:
    """Text and label of each row of a loader, fillers left out."""
    found = []
    for batch in loader:
        rows = zip(texts(data, batch), batch["labels"].tolist(), batch["row"], strict=True)
        found += [(text, label) for text, label, row in rows if row >= 0]
    return found


# ---- batches ----


def test_batches(make_data: MakeData) -> None:
    data = ready(make_data())
    assert data.label_names == LABELS
    assert not data.is_multi_label
    rows = {row["text"]: LABELS.index(row["label"]) for row in some_rows()}
    numbers = {row["text"]: number for number, row in enumerate(some_rows())}
    loader = data.train_dataloader()
    assert len(loader) == 14  # 54 rows, four at once
    seen = set()
    for batch in islice(loader, len(loader)):
        assert set(batch) == {"input_ids", "last_token", "labels", "row"}
        assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
        assert len(batch["input_ids"]) == 4
        assert batch["input_ids"].shape[1] == int(batch["last_token"].max()) + 1
        for text, label, row in zip(
            texts(data, batch), batch["labels"].tolist(), batch["row"].tolist(), strict=True
        ):
            assert (label, row) == (rows[text], numbers[text])
            seen.add(text)
    held_out = everything(data, data.val_dataloader())
    assert len(held_out) == 6
    assert seen | {text for text, _ in held_out} == set(rows)
    assert not seen & {text for text, _ in held_out}
    assert all(label == rows[text] for text, label in held_out)
    assert Counter(label for _, label in held_out) == {0: 2, 1: 2, 2: 2}
    assert data.label_counts == [18, 18, 18]


def test_what_fills_up(make_data: MakeData) -> None:
    data = ready(make_data(batch_size=5))
    first, second = data.val_dataloader()
    filled = torch.cat([first["row"], second["row"]]) == -1
    assert filled.sum() == 4
    for name in ("labels", "last_token", "input_ids"):
        values = torch.cat([batch[name].reshape(5, -1)[:, -1] for batch in (first, second)])
        assert (values[filled] == (-100 if name == "labels" else 0)).all()


def test_state_does_not_depend_on_the_seed(make_data: MakeData) -> None:
    one, other = (ready(make_data(seed=seed)) for seed in (0, 1))
    assert one.label_names == other.label_names
    assert everything(one, one.val_dataloader()) == everything(other, other.val_dataloader())
    rows = [next(iter(data.train_dataloader()))["row"].tolist() for data in (one, other)]
    assert rows[0] != rows[1]


def test_long_rows_are_cut_and_counted(make_data: MakeData) -> None:
    data = ready(make_data(block_size=20))
    long = [row for row in some_rows() if len(row["text"]) > 20]
    assert data.num_cut == len(long) > 20
    assert f"{len(long)} rows cut to 20 tokens" in data.describe()
    found = {text for text, _ in everything(data, islice(data.train_dataloader(), 14))}
    assert max(map(len, found)) == 20
    assert found <= {row["text"][:20] for row in some_rows()}


def test_batches_to_predict(make_data: MakeData, tmp_path: Path) -> None:
    unlabelled = write_jsonl(tmp_path / "new.jsonl", [{"text": f"new {n}"} for n in range(5)])
    data = ready(make_data(predict_sources=[unlabelled]), "predict")
    batches = list(data.predict_dataloader())
    assert [set(batch) for batch in batches] == [{"input_ids", "last_token", "row", "texts"}] * 2
    rows = [
        row for batch in batches for row in zip(batch["row"].tolist(), batch["texts"], strict=True)
    ]
    assert sorted(rows) == [*[(-1, "")] * 3, *((n, f"new {n}") for n in range(5))]


def test_sources_of_their_own(make_data: MakeData, tmp_path: Path) -> None:
    names = ("val", "test", "predict")
    sources = {
        f"{name}_sources": [
            write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name, "label": "pos"}])
        ]
        for name in names
    }

    def read(loader: Any) -> set[str]:
        return {text for b in loader for text in texts(data, b) if text != "\0"}

    data = ready(make_data(**sources), None)
    assert sum(data.label_counts) == 60  # nothing is split off
    loaders = (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
    assert [read(loader) for loader in loaders] == [{"val"}, {"test"}, {"predict"}]
    # What is not given: predict falls back on test, test on val, val on a part of the sources.
    for left, expected in ((names[:2], "test"), (names[:1], "val")):
        data = make_data(**{f"{name}_sources": sources[f"{name}_sources"] for name in left})
        assert read(ready(data, "predict").predict_dataloader()) == {expected}
    assert len(read(ready(make_data(), "predict").predict_dataloader())) == 6


def test_without_validation(make_data: MakeData) -> None:
    data = ready(make_data(val_fraction=0.0))
    assert data.val_dataloader() == data.test_dataloader() == data.predict_dataloader() == []
    assert sum(data.label_counts) == 60


# ---- labels ----


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["a", "b"], ("a", "b")),
        ([1, 0], ("0", "1")),
        ([2, 10, 1], ("1", "2", "10")),
        ([1.0, 0.0], ("0", "1")),
        ([0.5, 1.5], ("0.5", "1.5")),
        ([True, False], ("false", "true")),
        (["1", 1, 2.0, "b"], ("1", "2", "b")),
    ],
)
def test_labels_of_any_type(make_data: MakeData, labels: list[Any], names: tuple[str, ...]) -> None:
    rows = [{"text": f"row {n}", "label": labels[n % len(labels)]} for n in range(40)]
    data = ready(make_data(rows))
    assert data.label_names == names
    assert sum(data.label_counts) == 40 - len(list(everything(data, data.val_dataloader())))


@pytest.mark.parametrize("kind", ["lists", "texts"])
def test_several_labels(make_data: MakeData, kind: str) -> None:
    sets = [[], ["a"], ["b", "a"], ["c"]]
    rows = [
        {"text": f"row {n}", "label": sets[n % 4] if kind == "lists" else ";".join(sets[n % 4])}
        for n in range(40)
    ]
    data = ready(make_data(rows, label_separator=None if kind == "lists" else ";"))
    assert data.label_names == ("a", "b", "c")
    assert data.is_multi_label
    expected = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    batches = list(islice(data.train_dataloader(), len(data.train_dataloader())))
    for batch in [*batches, *data.val_dataloader()]:
        for row, labels in zip(batch["row"].tolist(), batch["labels"].tolist(), strict=True):
            assert labels == (expected[row % 4] if row >= 0 else [-100] * 3)
    assert [batch["labels"].shape for batch in data.val_dataloader()] == [(4, 3)]
    assert data.label_counts == [18, 9, 9]


def test_a_single_row_with_two_labels_makes_all_of_them_lists(make_data: MakeData) -> None:
    # Whichever rows are held out.
    for number in range(0, 60, 7):
        rows: Rows = [{"text": f"row {n}", "label": ["ab"[n % 2]]} for n in range(60)]
        rows[number]["label"] = ["a", "b"]
        data = ready(make_data(rows, val_fraction=0.4))
        assert data.is_multi_label
        assert all(batch["labels"].shape == (4, 2) for batch in data.val_dataloader())


def test_a_rare_label_is_trained_on(make_data: MakeData) -> None:
    rows = [*some_rows(60), {"text": "once", "label": "rare"}]
    data = ready(make_data(rows))
    assert data.label_names == ("neg", "neutral", "pos", "rare")
    assert data.label_counts == [18, 18, 18, 1]


def test_label_names_that_are_given(make_data: MakeData) -> None:
    names = ["pos", "neutral", "neg", "never"]
    data = ready(make_data(label_names=names))
    assert data.label_names == tuple(names)
    assert data.label_counts == [18, 18, 18, 0]
    rows = {row["text"]: names.index(row["label"]) for row in some_rows()}
    assert all(rows[text] == label for text, label in everything(data, data.val_dataloader()))
    assert refusal(make_data(label_names=["pos", "neutral"])) == (
        f"{data.sources[0]}, line 1: label 'neg' is not among label_names; known: neutral, pos"
    )
    assert refusal_of_arguments(make_data, label_names=["a", "b", "a"]) == (
        "label_names=['a', 'b', 'a'] has a name twice; give each once"
    )


def test_the_models_labels_come_first(make_data: MakeData, tmp_path: Path) -> None:
    task = SequenceClassification(TINY, label_names=["pos", "neg", "neutral"])
    data = make_data(some_rows()[1:], block_size=8)
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(task, data)
    names = ("pos", "neg", "neutral")
    assert task.label_names == names
    assert data.label_counts == [18, 17, 18]
    rows = {row["text"][:8]: names.index(row["label"]) for row in some_rows()}
    assert all(rows[text] == label for text, label in everything(data, data.val_dataloader()))


# ---- files ----


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_jsonl),
        ("a.json", write_json),
        ("a.csv", write_table),
        ("a.tsv", write_table),
        ("a.parquet", write_parquet),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_formats(
    make_data: MakeData,
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Rows], str],
    suffix: str,
) -> None:
    rows = [{"review": f"row {n}", "id": n, "stars": n % 3} for n in range(30)]
    path = Path(write(tmp_path / name, rows))
    if suffix:
        compress = gzip.compress if suffix == ".gz" else zstandard.compress
        path.with_name(name + suffix).write_bytes(compress(path.read_bytes()))
    data = make_data(sources=[f"{path}{suffix}"], text_columns="review", label_column="stars")
    assert ready(data).label_names == ("0", "1", "2")
    found = everything(data, islice(data.train_dataloader(), 7))
    assert dict(found) == {
        row["review"]: row["stars"] for row in rows if row["review"] in dict(found)
    }
    assert len({*dict(found), *dict(everything(data, data.val_dataloader()))}) == 30


def test_a_table_without_a_header(make_data: MakeData, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{'ab'[n % 2]}\trow {n}\n" for n in range(20)))
    data = make_data(sources=[str(path)], column_names=["label", "text"], val_fraction=0.2)
    found = everything(ready(data), data.val_dataloader())
    assert len(found) == 4
    assert all(label == int(text.split()[1]) % 2 for text, label in found)


def test_pairs(make_data: MakeData) -> None:
    rows = [{"premise": f"p{n}", "claim": f"c{n}", "label": n % 2} for n in range(20)]
    columns = {"text_columns": ["premise", "claim"]}
    data = ready(make_data(rows, **columns))
    assert all(
        text in {f"p{n}\nc{n}" for n in range(20)}
        for text, _ in everything(data, data.val_dataloader())
    )
    other = ready(make_data(rows, **columns, pair_separator=" | ", val_fraction=0.5))
    found = {text for text, _ in everything(other, other.val_dataloader())}
    assert len(found) == 10
    assert found < {f"p{n} | c{n}" for n in range(20)}


def test_a_tokenizer_belongs_to_the_columns_that_were_read(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[set[str]] = []
    train = base.train_tokenizer

    def note(config: TokenizerConfig, texts: Any) -> Any:
        texts = list(texts)
        trained.append(set("".join(texts)))
        return train(config, texts)

    monkeypatch.setattr(base, "train_tokenizer", note)
    rows = [{"title": "abc", "body": "xyz", "label": n % 2} for n in range(4)]
    sources = make_data(rows).sources
    kind = TokenizerConfig("char")

    def train_on(**reading: Any) -> None:
        for other in ({}, {"batch_size": 2, "seed": 3, "block_size": 9, "val_fraction": 0.5}):
            make_data(sources=sources, tokenizer=kind, **reading, **other).build_tokenizer()

    for columns in ("title", "body", ["title", "body"], ["title"], "title"):
        train_on(text_columns=columns)
    train_on(text_columns=["title", "body"], pair_separator="|")
    assert trained == [set("abc"), set("xyz"), set("abc\nxyz"), set("abc|xyz")]


# ---- what is wrong ----


def refusal_of_arguments(make_data: MakeData, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        make_data(**options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"val_fraction": 1.0}, "val_fraction=1.0 must be at least 0 and below 1"),
        ({"val_fraction": -0.1}, "val_fraction=-0.1 must be at least 0 and below 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"block_size": 0}, "block_size=0 must be at least 1"),
        ({"text_columns": []}, "text_columns is empty; name the column of the text"),
    ],
)
def test_arguments_that_cannot_be(make_data: MakeData, options: Any, what: str) -> None:
    assert refusal_of_arguments(make_data, **options) == what


@pytest.mark.parametrize(
    ("change", "options", "what"),
    [
        ({}, {"label_column": "lable"}, "no field 'lable'; fields there: 'text', 'label' (set "
         "label_column); did you mean 'label'?"),
        ({}, {"text_columns": ["text", "b"]}, "no field 'b'; fields there: 'text', 'label' (set "
         "text_columns)"),
        ({"text": " "}, {}, "field 'text' is empty; remove the row"),
        ({"text": 3}, {}, "field 'text' is not text"),
        ({"text": "\ud800"}, {}, "field 'text' holds half a character (\\ud800); remove it"),
        ({"label": ""}, {}, "field 'label' is empty; a label is a name or a number"),
        ({"label": None}, {}, "field 'label' is no label: None; use a name or a number"),
    ],
)  # fmt: skip
def test_rows_that_are_wrong(make_data: MakeData, change: Any, options: Any, what: str) -> None:
    rows = some_rows(9)
    rows[4] |= change
    data = make_data(rows, **options)
    line = 5 if change else 1
    assert refusal(data) == f"{data.sources[0]}, line {line}: {what}"


def test_one_label_alone(make_data: MakeData) -> None:
    rows = [{"text": f"row {n}", "label": "a"} for n in range(9)]
    data = make_data(rows)
    assert refusal(data) == (
        f"every row of {data.sources[0]} has the label 'a' in 'label'; there is nothing to tell "
        "apart"
    )
    nothing = [{"text": f"row {n}", "label": []} for n in range(9)]
    assert "has the label nothing in 'label'" in refusal(make_data(nothing))
    # Some have it and some do not.
    some = [{"text": f"row {n}", "label": ["a"] * (n % 2)} for n in range(9)]
    assert ready(make_data(some)).label_names == ("a",)


def test_a_label_that_training_has_not_seen(make_data: MakeData, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "pos"}, {"text": "b", "label": "poss"}]
    path = write_jsonl(tmp_path / "new.jsonl", rows)
    said = f"{path}, line 2: label 'poss' was not seen in training; did you mean 'pos'?"
    assert refusal(make_data(val_sources=[path])) == said  # before training begins
    data = ready(make_data(test_sources=[path]), None)
    with pytest.raises(InputError) as caught:
        data.test_dataloader()
    assert str(caught.value) == said


def test_labels_that_nobody_knows(make_data: MakeData, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "new.jsonl", some_rows(3))
    data = ready(make_data(test_sources=[path]), "test")
    with pytest.raises(InputError, match="the labels are not known; start from a checkpoint"):
        data.test_dataloader()


def test_sources_without_rows(make_data: MakeData, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n")
    empty = str(tmp_path / "a.csv")
    assert refusal(make_data(sources=[empty])) == f"{empty} holds no row"
    (tmp_path / "a.txt").write_text("text")
    assert "a.txt holds no rows; known: .jsonl" in refusal(make_data(sources=[f"{tmp_path}/a.txt"]))
    assert refusal(make_data(sources=["builtin:python-docs"])) == (
        "builtin:python-docs has no labels; name a file with rows"
    )


def test_a_text_of_which_the_tokenizer_leaves_nothing(make_data: MakeData) -> None:
    rows = some_rows(9)
    rows[3]["text"] = "gone"
    data = make_data(rows)
    data.prepare_data()
    tokenizer = data.build_tokenizer()

    def encode(texts: list[str]) -> list[list[int]]:
        return [[] if text == "gone" else [1] for text in texts]

    data.build_tokenizer = lambda: SimpleNamespace(encode_batch=encode)  # type: ignore[assignment,return-value,method-assign]
    assert tokenizer is not data.build_tokenizer()
    with pytest.raises(InputError, match=r"line 4: the tokenizer leaves nothing of the text$"):
        data.setup("fit")


# ---- with a Trainer ----


@pytest.mark.parametrize("kind", ["one", "several"])
def test_in_a_trainer(make_data: MakeData, tmp_path: Path, kind: str) -> None:
    rows = some_rows()
    if kind == "several":
        rows = [{**row, "label": row["label"].split("e")} for row in rows]
        rows = [{**row, "label": [part for part in row["label"] if part]} for row in rows]
    data = make_data(rows, block_size=None, batch_size=5)
    task = SequenceClassification(TINY, class_weights="balanced")
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(task, data)
    assert trainer.global_step == 3
    assert task.label_names == data.label_names
    assert task.is_multi_label is data.is_multi_label is (kind == "several")
    assert data.block_size == TINY.block_size
    (scores,) = trainer.test(task, data, verbose=False)
    assert 0 < scores["test/loss"] < 3
    predictions = trainer.predict(task, data)
    assert sorted(int(n) for p in predictions or [] for n in p["row"] if n >= 0) == sorted(
        int(n) for batch in data.val_dataloader() for n in batch["row"] if n >= 0
    )


# ---- real data ----


def test_sentence_polarity(make_data: MakeData) -> None:
    path = shared_data("sentence_polarity/sentence_polarity.jsonl.gz")
    data = ready(make_data(sources=[str(path)], block_size=256, batch_size=32))
    assert data.label_names == ("0", "1")
    assert data.label_counts == [4798, 4798]  # nine tenths of 5331 each
    labels = Counter(int(n) for batch in data.val_dataloader() for n in batch["labels"])
    assert labels == {0: 533, 1: 533, -100: 22}
    lengths = [batch["last_token"] + 1 for batch in islice(data.train_dataloader(), 100)]
    padded = sum(len(of_batch) * int(of_batch.max()) for of_batch in lengths)
    assert sum(int(of_batch.sum()) for of_batch in lengths) > 0.95 * padded
    assert "9,596 rows to train on, 1,066 to validate on, one of 2 labels" in data.describe()
    assert data.describe_steps(300, 1) == "of 32 rows (1.0 epochs)"


def test_mini_newsgroups(make_data: MakeData) -> None:
    path = shared_data("mini_newsgroups/mini_newsgroups.jsonl.gz")
    data = ready(make_data(sources=[str(path)], block_size=512))
    assert data.label_names is not None
    assert len(data.label_names) == 20
    assert "alt.atheism" in data.label_names
    assert data.label_counts == [90] * 20
    assert data.num_cut > 1900  # headers alone are as long


def test_cut_rows_are_told_where_nothing_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * n, "label": n}) + "\n" for n in (3, 9)))
    data = ClassificationDataModule(
        sources=["none.jsonl"],
        test_sources=[str(path)],
        tokenizer=TokenizerConfig("byte"),
        block_size=5,
        cache_dir=str(tmp_path / "cache"),
    )
    data.build_tokenizer = lambda: train_tokenizer(TokenizerConfig("byte"), [])  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match=r"1 rows of .*a\.jsonl are cut to 5 tokens"):
        data.setup("test")


def test_says_which_rows_a_step_reads(make_data: MakeData) -> None:
    data = ready(make_data(global_batch_size=8, batch_size=4))
    loader = data.train_dataloader()
    rows = torch.cat([loader.batch(2 + n)["row"] for n in range(2)])
    assert data.rows_of_step(1) == rows.tolist()

"""Labels: names of any kind, numbered once; shares of each label held out."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from lit_gpt_kit.data.labels import (
    IGNORED_LABEL,
    LabelMap,
    read_labels,
    sort_names,
    split_by_label,
)
from lit_gpt_kit.data.rows import Row
from lit_gpt_kit.errors import InputError

NAMES = st.sampled_from("abcdefg")


def read(value: Any, separator: str | None = None) -> tuple[str, ...]:
    return read_labels(Row({"label": value}, "x.jsonl, line 3"), "label", separator)


@pytest.mark.parametrize(
    ("value", "separator", "names"),
    [
        ("sport", None, ("sport",)),
        (" sport\n", None, ("sport",)),
        ("sport;news", None, ("sport;news",)),
        (3, None, ("3",)),
        (3.0, None, ("3",)),
        (-1, None, ("-1",)),
        (0.5, None, ("0.5",)),
        ("3.0", None, ("3.0",)),  # as it is written in a table
        (True, None, ("true",)),
        (False, None, ("false",)),
        (["b", "a", "b"], None, ("a", "b")),
        ([2, 1.0, True], None, ("1", "2", "true")),
        ([], None, ()),
        ("news; sport ;;news", ";", ("news", "sport")),
        ("", ";", ()),
        (["b;c", "a"], ";", ("a", "b;c")),
        (7, ";", ("7",)),
    ],
)
def test_labels_of_any_kind(value: Any, separator: str | None, names: tuple[str, ...]) -> None:
    assert read(value, separator) == names


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (" ", "field 'label' is empty; a label is a name or a number"),
        (["a", ""], "field 'label' is empty; a label is a name or a number"),
        (None, "field 'label' is no label: None; use a name or a number"),
        (float("nan"), "field 'label' is no label: nan; use a name or a number"),
        ({"a": 1}, "field 'label' is no label: {'a': 1}; use a name or a number"),
        ([["a"]], "field 'label' is no label: ['a']; use a name or a number"),
    ],
)
def test_what_is_no_label(value: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        read(value)
    assert str(caught.value) == f"x.jsonl, line 3: {what}"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        (["10", "9", "-1", "0"], ("-1", "0", "9", "10")),
        (["10", "9", "a"], ("10", "9", "a")),
        (["01", "1", "001"], ("001", "01", "1")),  # alike as numbers, but not as names
        (["2.5", "10.5"], ("10.5", "2.5")),
        ([], ()),
    ],
)
def test_names_are_sorted(names: list[str], expected: tuple[str, ...]) -> None:
    assert sort_names(names) == sort_names(names[::-1]) == expected


def test_numbers_of_labels() -> None:
    one = LabelMap(("neg", "neutral", "pos"), is_multi_label=False)
    assert [int(one.encode((name,), "x")) for name in one.names] == [0, 1, 2]
    assert one.encode(("pos",), "x").shape == ()
    assert one.filler().tolist() == IGNORED_LABEL
    several = LabelMap(("neg", "neutral", "pos"), is_multi_label=True)
    assert several.encode(("pos", "neg"), "x").tolist() == [1, 0, 1]
    assert several.encode((), "x").tolist() == [0, 0, 0]
    assert several.filler().tolist() == [IGNORED_LABEL] * 3


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_a_label_that_is_new(is_multi_label: bool) -> None:
    labels = LabelMap(("neg", "pos"), is_multi_label)
    with pytest.raises(InputError) as caught:
        labels.encode(("poss",), "val.csv, line 7")
    assert str(caught.value) == (
        "val.csv, line 7: label 'poss' was not seen in training; did you mean 'pos'?"
    )
    with pytest.raises(InputError, match=r"seen in training; known: neg, pos$"):
        labels.encode(("zebra",), "val.csv, line 7")


@pytest.mark.parametrize(
    ("names", "what"), [((), r"0 labels \(\)"), (("a", "b"), "2 labels (a, b)")]
)
def test_more_or_fewer_labels_than_one(names: tuple[str, ...], what: str) -> None:
    with pytest.raises(InputError) as caught:
        LabelMap(("a", "b"), is_multi_label=False).encode(names, "val.csv, line 7")
    assert str(caught.value) == (
        f"val.csv, line 7: {what} where every row of the training data has one"
    ).replace("\\", "")


# ---- rows held out ----


@settings(deadline=None)
@given(
    labels=st.lists(st.tuples(NAMES), max_size=300), fraction=st.floats(0, 0.99, allow_nan=False)
)
def test_a_share_of_each_label_is_held_out(labels: list[tuple[str, ...]], fraction: float) -> None:
    train, val = split_by_label(labels, fraction)
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert train.tolist() == sorted(train)
    assert val.tolist() == sorted(val)
    everywhere = Counter(labels)
    held_out = Counter(labels[number] for number in val)
    for name, count in everywhere.items():
        assert held_out[name] == min(round(count * fraction), count - 1)


@settings(deadline=None)
@given(
    labels=st.lists(st.lists(NAMES, max_size=4, unique=True).map(tuple), max_size=200),
    fraction=st.floats(0, 0.99, allow_nan=False),
)
def test_every_label_is_trained_on(labels: list[tuple[str, ...]], fraction: float) -> None:
    train, val = split_by_label(labels, fraction)
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert {name for number in train for name in labels[number]} == {
        name for names in labels for name in names
    }


def test_shares_are_those_of_sklearn() -> None:
    labels = np.repeat(["a", "b", "c"], [5000, 300, 20]).tolist()
    (_, theirs), *_ = StratifiedShuffleSplit(1, test_size=0.1).split(labels, labels)
    _, ours = split_by_label([(name,) for name in labels], 0.1)
    expected = Counter(labels[number] for number in theirs)
    assert Counter(labels[number] for number in ours) == expected == {"a": 500, "b": 30, "c": 2}


def test_shares_of_several_labels() -> None:
    rng = np.random.default_rng(0)
    chances = np.array([0.5, 0.3, 0.02, 0.02] + [0.15] * 10)
    rows = rng.random((5000, len(chances))) < chances
    labels = [tuple(str(n) for n in np.flatnonzero(row)) for row in rows]
    assert len(set(labels)) > 800  # most of them too rare to be split by
    _, val = split_by_label(labels, 0.1)
    assert 490 <= len(val) <= 510
    shares = rows[val].sum(axis=0) / rows.sum(axis=0)
    assert shares == pytest.approx(0.1, abs=0.025)


def test_rows_held_out_come_from_everywhere() -> None:
    _, val = split_by_label([("a",)] * 500 + [("b",)] * 500, 0.1)
    assert np.histogram(val, bins=10, range=(0, 1000))[0].tolist() == [10] * 10
    assert len(set(np.diff(val).tolist())) > 5  # not every tenth row

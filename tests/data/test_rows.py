"""Rows of every format, with the place where each stands."""

import json
from pathlib import Path

import pytest

from lit_gpt_kit.data.rows import Row, read_rows
from lit_gpt_kit.errors import InputError
from tests.conftest import shared_data


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, **options: object) -> list[dict[str, object]]:
    return [dict(row.values) for row in read_rows(path, **options)]  # type: ignore[arg-type]


def test_rows_say_where_they_stand(tmp_path: Path) -> None:
    jsonl = write(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": [2]}\n')
    assert list(read_rows(jsonl)) == [
        Row({"a": 1}, f"{jsonl}, line 1"),
        Row({"a": [2]}, f"{jsonl}, line 3"),
    ]
    table = write(tmp_path, "a.csv", 'a,b\n1,"x\ny"\n2,z\n')
    assert list(read_rows(table)) == [
        Row({"a": "1", "b": "x\ny"}, f"{table}, line 3"),
        Row({"a": "2", "b": "z"}, f"{table}, line 4"),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_table_without_header(tmp_path: Path, suffix: str) -> None:
    mark = "," if suffix == ".csv" else "\t"
    path = write(tmp_path, f"a{suffix}", f"Run!{mark}Cours !\nJump.{mark}Saute.\n")
    assert read(path, column_names=["en", "fr"]) == [
        {"en": "Run!", "fr": "Cours !"},
        {"en": "Jump.", "fr": "Saute."},
    ]


@pytest.mark.parametrize(
    ("text", "records"),
    [
        ('a\tb\n"x y"\t"z"\n', [("x y", "z")]),
        ('a\tb\n"Ah" he said.\tz\n', [('"Ah" he said.', "z")]),
        ('a\tb\n"x\nstill x"\tz\n', [("x\nstill x", "z")]),
        ('a\tb\n"never closed\tz\nnext\trow\n', [('"never closed', "z"), ("next", "row")]),
        ('a\tb\n"never closed\tz\n"p"\tq\n', [('"never closed', "z"), ("p", "q")]),
        ('a\tb\n"she ""said"" it"\tz\n', [('she "said" it', "z")]),
    ],
)
def test_quotes_of_a_tsv_file(tmp_path: Path, text: str, records: list[tuple[str, str]]) -> None:
    path = write(tmp_path, "a.tsv", text)
    assert [tuple(row.values()) for row in read(path)] == records


def test_tsv_that_is_neither_quoted_nor_plain(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'a\tb\n"x"y\tz\tw\n')
    with pytest.raises(InputError, match=r"a\.tsv, line 2: not valid TSV"):
        read(path)


def test_json_lists(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": 2}]
    path = write(tmp_path, "a.json", json.dumps(rows))
    assert read(path) == rows
    assert read(write(tmp_path, "b.json", json.dumps({"data": rows}))) == rows
    assert [row.place for row in read_rows(path)] == [f"{path}, row 1", f"{path}, row 2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}\n{"a": 2}', "a file with an object a line is .jsonl"),
        ('{"a": 1}', "expected a JSON list of objects, alone or as 'data'"),
        ("[1]", "row 1: expected a JSON object with fields"),
        ('[{"paragraphs": [3]}]', "row 1: has paragraphs, but not those of SQuAD"),
    ],
)
def test_json_that_holds_no_rows(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(write(tmp_path, "a.json", text))


def test_wanted_columns_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "x", "lable": 1}\n')
    with pytest.raises(InputError) as caught:
        read(path, wanted={"text": "text_columns", "label": "label_column"})
    assert str(caught.value) == (
        f"{path}, line 1: no field 'label'; fields there: 'text', 'lable' (set label_column); "
        "did you mean 'lable'?"
    )


def test_parquet_reads_the_wanted_columns_alone(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["x", None], "label": [1, 0], "other": [[1], [2]]})
    parquet.write_table(table, path)
    assert read(path, wanted={"text": "t", "label": "l"}) == [
        {"text": "x", "label": 1},
        {"text": "", "label": 0},
    ]
    assert read(path)[1] == {"text": "", "label": 0, "other": [2]}


def test_text_files_hold_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "x")
    with pytest.raises(InputError, match=r"a\.txt holds no rows; known: \.jsonl, \.json, "):
        read(path)


def test_real_pairs_and_questions() -> None:
    path = shared_data("tatoeba_en_fr/en_fr_40k.tsv.gz")
    rows = read(path, column_names=["en", "fr"])
    assert len(rows) == 40_000
    assert all(set(row) == {"en", "fr"} and row["en"] and row["fr"] for row in rows)
    assert sum(str(row["en"]).startswith('"') for row in rows) == 47  # as grep counts
    questions = list(read_rows(shared_data("xquad/xquad.en.json.gz")))
    assert len(questions) == 1190
    first = questions[0].values
    assert first["question"] == "How many points did the Panthers defense surrender?"
    assert first["answers"] == [{"answer_start": 34, "text": "308"}]
    assert "The Panthers defense gave up just 308 points" in str(first["context"])

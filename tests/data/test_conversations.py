"""Rows of each shape become conversations: made ones, and those of real data sets."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_gpt_kit.data.conversations import SHAPES, Conversation, read_conversation
from lit_gpt_kit.data.row_template import RowTemplate
from lit_gpt_kit.data.rows import Row, read_rows
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tokenization.turns import EmptyTextError
from tests.conftest import shared_data

EXCHANGE = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
SYSTEM = {"role": "system", "content": "Be brief."}
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]


def read(values: Any, shape: str | RowTemplate | None = None) -> Conversation:
    return read_conversation(Row(values, "x.jsonl, line 3"), shape)


def complaint(values: Any, shape: str | RowTemplate | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read(values, shape)
    message = str(caught.value)
    assert message.startswith("x.jsonl, line 3: ")
    assert "\n" not in message
    return message.removeprefix("x.jsonl, line 3: ")


@pytest.mark.parametrize(
    ("values", "shape", "messages"),
    [
        ({"id": 1, "messages": [SYSTEM, *EXCHANGE]}, "messages", [SYSTEM, *EXCHANGE]),
        ({"messages": json.dumps(EXCHANGE)}, "messages", EXCHANGE),
        ({"messages": [{**m, "weight": 1} for m in EXCHANGE]}, "messages", EXCHANGE),
        ({"messages": [{"role": "system", "content": ""}, *EXCHANGE]}, "messages", EXCHANGE),
        ({"prompt": "Why?", "messages": EXCHANGE}, "messages", EXCHANGE),
        ({"conversations": SHAREGPT}, "sharegpt", EXCHANGE),
        ({"conversations": EXCHANGE}, "sharegpt", EXCHANGE),
        (
            {"conversations": [{"from": "system", "value": "Be brief."}, *SHAREGPT]},
            "sharegpt",
            [SYSTEM, *EXCHANGE],
        ),
        ({"instruction": "Why?", "output": "So."}, "alpaca", EXCHANGE),
        ({"instruction": "Why?", "input": "", "response": "So."}, "alpaca", EXCHANGE),
        ({"instruction": "Why?", "input": "<noinput>", "output": "So."}, "alpaca", EXCHANGE),
        (
            {"instruction": "Why?", "input": None, "output": "So.", "system": "Be brief."},
            "alpaca",
            [SYSTEM, *EXCHANGE],
        ),
        (
            {"instruction": "Add", "input": "1 2", "output": 3},
            "alpaca",
            [{"role": "user", "content": "Add\n\n1 2"}, {"role": "assistant", "content": "3"}],
        ),
        (
            {"instruction": "Why?", "instances": [{"input": "", "output": "So."}]},
            "self_instruct",
            EXCHANGE,
        ),
        ({"prompt": "Why?", "completion": "So."}, "prompt_completion", EXCHANGE),
        ({"prompt": "Why?", "response": "So.", "system": ""}, "prompt_completion", EXCHANGE),
        ({"question": "Why?", "answer": "So."}, "question_answer", EXCHANGE),
    ],
)
def test_shapes(values: Any, shape: str, messages: list[dict[str, str]]) -> None:
    for name in (None, shape):
        assert read(values, name) == Conversation(messages)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["b", "c", "b"], "answer_start": [1, 2, 1]},
        [{"text": "b", "answer_start": 1}, {"text": "c"}, {"text": "b"}],
        ["b", "c"],
    ],
)
def test_a_question_with_several_answers(answers: Any) -> None:
    conversation = read({"context": "abc", "question": "Which?", "answers": answers})
    assert conversation.messages == [
        {"role": "user", "content": "abc\n\nWhich?"},
        {"role": "assistant", "content": "b"},
    ]
    assert conversation.prompt == conversation.messages[:1]
    assert conversation.references == ("b", "c")


def test_the_prompt_of_many_turns_is_what_the_last_answer_answers() -> None:
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Thus."}]
    conversation = read({"messages": [*EXCHANGE, *more, EXCHANGE[0]]})
    assert conversation.prompt == [*EXCHANGE, more[0]]
    assert conversation.references == ("Thus.",)


def test_any_columns() -> None:
    template = RowTemplate("To French: {en}", "{fr}", system="Be {tone}.")
    row = {"en": "Go.", "fr": "Va !", "tone": "brief"}
    assert read(row, template).messages == [
        SYSTEM,
        {"role": "user", "content": "To French: Go."},
        {"role": "assistant", "content": "Va !"},
    ]
    assert complaint({"en": "Go."}, template).startswith("no column 'tone'; columns there: 'en'")


def test_a_shape_that_is_not_known() -> None:
    assert complaint({"text": "a", "label": 1}) == (
        "the row has no known shape; keys there: 'text', 'label'; known: messages (messages), "
        "sharegpt (conversations), alpaca (instruction + output/response), self_instruct "
        "(instruction + instances), prompt_completion (prompt + completion/response), "
        "question_answer (question + answer/answers); or write question and answer as a template "
        "of the columns"
    )
    assert complaint({}, "alpca") == "shape='alpca' is unknown; did you mean 'alpaca'?"
    assert complaint({"instruction": "a"}, "alpaca") == (
        "the shape alpaca needs instruction + output/response; keys there: 'instruction'"
    )


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"messages": EXCHANGE[:1]}, "no message is from the assistant, so there is nothing to le"),
        ({"messages": EXCHANGE[1:]}, "message 1 is from the assistant, but it is the user's turn"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "message 1 has the role 'usr'; did you"),
        ({"messages": [{"role": "user"}]}, "message 1 has neither role and content nor from and "),
        (
            {"messages": ["a"]},
            "message 1 has neither role and content nor from and value; keys the",
        ),
        ({"messages": 3}, "'messages' holds no list of messages but a int"),
        ({"messages": "{"}, "'messages' holds no messages: Expecting property name"),
        (
            {"messages": [{"role": "user", "content": ["a"]}]},
            "message 1, from the user, is no text",
        ),
        ({"instruction": "a", "instances": []}, "'instances' is no list of exactly one instance"),
        (
            {"instruction": "a", "instances": ["b"]},
            "the instance is no object with 'input' and 'ou",
        ),
        (
            {"instruction": ["a"], "output": "b"},
            "'instruction' holds neither text nor number: ['a'",
        ),
        ({"prompt": "a", "completion": None}, "'answer' is empty"),
        ({"question": "a", "answers": [{"txt": "b"}]}, "'answer' is empty"),
    ],
)
def test_rows_that_are_wrong(values: Any, what: str) -> None:
    assert complaint(values).startswith(what)


@pytest.mark.parametrize(
    "values",
    [
        {"instruction": "a", "output": " "},
        {"instruction": "", "output": "a"},
        {"question": "a", "answers": {"text": []}},
    ],
)
def test_an_empty_text_can_be_told_from_other_errors(values: Any) -> None:
    with pytest.raises(EmptyTextError, match=r"^x\.jsonl, line 3: "):
        read(values)


# ---- real data ----


def read_all(name: str) -> tuple[list[Conversation], int]:
    found, num_empty = [], 0
    for row in read_rows(shared_data(name)):
        try:
            found.append(read_conversation(row))
        except EmptyTextError:
            num_empty += 1
    return found, num_empty


@pytest.mark.parametrize(
    ("name", "num_read", "num_empty"),
    [
        ("sgd_chat/sgd_messages.jsonl.gz", 1152, 0),
        ("alpaca_libre/alpaca_libre.jsonl.gz", 3097, 34),
        ("gpteacher/roleplay.jsonl.gz", 1923, 0),
        ("gpteacher/codegen.jsonl.gz", 4535, 0),
        ("rasbt_instruct/instruction_data.jsonl.gz", 1100, 0),
        ("gsm8k/test.jsonl.gz", 1319, 0),
        ("self_instruct/seed_tasks.jsonl", 175, 0),
        ("self_instruct/user_oriented_instructions.jsonl", 252, 0),
        ("xquad/xquad.en.json.gz", 1190, 0),
        ("xquad/xquad.de.json.gz", 1190, 0),
    ],
)
def test_real_rows_are_read(name: str, num_read: int, num_empty: int) -> None:
    conversations, empty = read_all(name)
    assert (len(conversations), empty) == (num_read, num_empty)
    assert all(conversation.references[0].strip() for conversation in conversations)


def test_what_is_in_real_rows() -> None:
    xquad, _ = read_all("xquad/xquad.en.json.gz")
    assert xquad[0].prompt[0]["content"].startswith("The Panthers defense gave up just 308 points")
    question = "\n\nHow many points did the Panthers defense surrender?"
    assert xquad[0].prompt[0]["content"].endswith(question)
    assert xquad[0].references == ("308",)
    gsm8k, _ = read_all("gsm8k/test.jsonl.gz")
    assert gsm8k[0].references[0].endswith("#### 18")
    sgd, _ = read_all("sgd_chat/sgd_messages.jsonl.gz")
    assert sum(len(chat.messages) for chat in sgd) / len(sgd) == pytest.approx(16.5, abs=0.05)
    alpaca, _ = read_all("alpaca_libre/alpaca_libre.jsonl.gz")
    assert alpaca[1].prompt[0]["content"] == (
        "Edit the given sentence for proper grammar.\n\nI seen the movie last night at the theater."
    )
    last_words = {chat.prompt[0]["content"].split("\n\n")[-1].lower() for chat in alpaca}
    assert not last_words & {"<noinput>", "noinput", "noinput."}


def test_tables(tmp_path: Path) -> None:
    names = ["en", "fr"]
    path = shared_data("tatoeba_en_fr/en_fr_40k.tsv.gz")
    row = next(read_rows(path, column_names=names))
    assert read_conversation(row, RowTemplate("{en}", "{fr}")).references == ("Cours\u202f!",)
    csv = tmp_path / "a.csv"
    csv.write_text('messages\n"' + json.dumps(EXCHANGE).replace('"', '""') + '"\n')
    assert [read_conversation(row).messages for row in read_rows(csv)] == [EXCHANGE]


def test_shapes_are_looked_for_in_an_order_that_leaves_each_its_rows() -> None:
    assert list(SHAPES) == [
        "messages",
        "sharegpt",
        "alpaca",
        "self_instruct",
        "prompt_completion",
        "question_answer",
    ]


def test_null_is_an_empty_text() -> None:
    with pytest.raises(EmptyTextError, match="a, line 1: 'answer' is empty"):
        read_conversation(Row({"prompt": "x", "completion": None}, "a, line 1"))
    with pytest.raises(EmptyTextError, match="a, line 1: 'b' is empty"):
        read_conversation(Row({"a": "x", "b": None}, "a, line 1"), RowTemplate("{a}", "{b}"))

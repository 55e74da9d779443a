"""samples.md, read back as it was written."""

import pytest

from lit_gpt_kit.callbacks.sample_text import _page
from lit_gpt_kit.report.samples import Sample, parse_samples

ROWS = [
    [10, 320, "To ", "be\n"],
    [10, 320, "Or", " not\n\n## Step 5\n"],
    [20, 640, "To ", "```text\nbe\n```"],
    [20, 640, "Or", ""],
]


def test_what_the_callback_writes_is_read_back() -> None:
    assert parse_samples(_page(ROWS)) == [
        Sample(20, 640, 0, "To ```text\nbe\n```"),
        Sample(20, 640, 1, "Or"),
        Sample(10, 320, 0, "To be\n"),
        Sample(10, 320, 1, "Or not\n\n## Step 5\n"),
    ]


def test_tokens_may_be_unknown() -> None:
    rows = [[1_000, None, "a", "b"]]
    assert parse_samples(_page(rows)) == [Sample(1000, None, 0, "ab")]


@pytest.mark.parametrize("page", ["", "# Samples\n", "## Step 5, 10 tokens\n\n```text\nhalf a sam"])
def test_a_page_without_a_whole_sample(page: str) -> None:
    assert parse_samples(page) == []

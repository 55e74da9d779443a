"""`lit-gpt report`."""

import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.command import run
from tests.report.made import write_metrics, write_run


def test_one_run_has_its_page_in_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "x" / "20260102-030405")
    (tmp_path / "runs" / "x" / "latest").symlink_to("20260102-030405")
    result = run(tmp_path, "report", "runs/x/latest")
    assert (result.status, result.err) == (0, "")
    page = tmp_path / "runs" / "x" / "20260102-030405" / "report.html"
    assert "<title>x/20260102-030405</title>" in page.read_text()
    first, second, third = result.out.splitlines()
    assert first == "x/20260102-030405: 100 lines of metrics, up to step 100"
    assert second.startswith("written to runs/x/20260102-030405/report.html (0.9 MiB)")
    assert third == f"next: open {page.as_uri()} in a browser"


def test_several_runs_have_theirs_here(tmp_path: Path) -> None:
    for name in "abcd":
        write_run(tmp_path / name)
    result = run(tmp_path, "report", "a", "b", "c", "d", "a", "--format=png")
    assert (result.status, result.err) == (0, "")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert result.out.count("lines of metrics") == 4


def test_output_and_title(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    result = run(tmp_path, "report", "a", "--output=new/page.html", "--title", "Mine & yours")
    assert (result.status, result.err) == (0, "")
    assert "<h1>Mine &amp; yours</h1>" in (tmp_path / "new" / "page.html").read_text()


def test_a_line_cut_off_by_a_crash_is_left_out_and_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    metrics = tmp_path / "a" / "metrics.csv"
    metrics.write_text(metrics.read_text()[:-9])
    result = run(tmp_path, "report", "a", "--format=png")
    assert result.out.startswith(
        "a: 99 lines of metrics, up to step 99; 1 that is not whole left out\n"
    )


def test_a_folder_without_metrics(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert run(tmp_path, "report", "a").complaint == (
        "a holds no metrics.csv, which `lit-gpt fit` writes into a run folder; "
        "name one that has been trained in"
    )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    complaint = run(tmp_path, "report", "gone").complaint
    assert complaint == f"run folder gone does not exist (from {tmp_path})"


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert "run_dirs" in run(tmp_path, "report").complaint


def test_an_output_that_is_a_folder(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    assert run(tmp_path, "report", ".", "--output", str(tmp_path), "--format=png").complaint == (
        f"{tmp_path} is a folder; name a file"
    )


def test_an_output_that_is_named_for_another_format(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    assert run(tmp_path, "report", "a", "--output=a.html", "--format=png").complaint == (
        "--output a.html is no name for --format png; give --format html, or a name that ends in "
        ".png"
    )
    assert run(tmp_path, "report", "a", "--output=a.jpg").complaint == (
        "--output a.jpg is no name for --format html; give a name that ends in .html"
    )
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "file").touch()
    said = run(tmp_path, "report", "a", "--output=file/page.html").complaint
    assert said.startswith("file/page.html cannot be written (")
    assert said.endswith("); name another place with --output")


@pytest.mark.parametrize("name", ["altair", "vl_convert"])
def test_without_the_library_one_line_says_what_to_install(tmp_path: Path, name: str) -> None:
    write_metrics(tmp_path)
    ours = [
        m
        for m in sys.modules
        if m.startswith(("lit_gpt_kit.report.page", "lit_gpt_kit.report.charts"))
    ]
    with mock.patch.dict(sys.modules, {name: None}):
        for module in ours:
            sys.modules.pop(module)
        complaint = run(tmp_path, "report", ".").complaint
    assert complaint == f"a report is drawn with {name}; pip install 'lit-gpt-kit[report]'"

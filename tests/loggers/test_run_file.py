"""run.json, written and read back."""

from pathlib import Path

from lit_gpt_kit.loggers.run_file import FILE, read_run, write_run


def test_damaged_file_is_none(tmp_path: Path) -> None:
    assert read_run(tmp_path) == {}
    write_run(tmp_path, {"name": "ä"})
    assert read_run(tmp_path) == {"name": "ä"}
    (tmp_path / FILE).write_text('{"name": "a')
    assert read_run(tmp_path) == {}

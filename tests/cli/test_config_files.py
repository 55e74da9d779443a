"""Configuration files that are none are named."""

from pathlib import Path

import pytest

from lit_gpt_kit import InputError
from lit_gpt_kit.cli.config_files import check_config_files

GIVEN = [["--config", "a.yaml"], ["-c", "a.yaml"], ["--config=a.yaml"], ["-c=a.yaml"]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a.yaml"


@pytest.mark.parametrize("arguments", GIVEN, ids=" ".join)
def test_broken_yaml_is_named_with_its_place(arguments: list[str], config: Path) -> None:
    config.write_text("trainer:\n  max_steps: 3\n precision: 32\n")
    with pytest.raises(InputError, match=r"^a.yaml is not valid YAML: line 3, column 2: "):
        check_config_files(["fit", *arguments])


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "trainer\n"])
def test_file_without_keys_is_refused(text: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(InputError, match=r"a.yaml holds no configuration"):
        check_config_files(["--config", "a.yaml"])


def test_bytes_that_are_no_text_are_named_with_their_offset(config: Path) -> None:
    config.write_bytes(b"trainer: \xff")
    with pytest.raises(InputError, match=r"a.yaml is not UTF-8 text at offset 9"):
        check_config_files(["--config", "a.yaml"])


@pytest.mark.parametrize("arguments", [*GIVEN, ["--data.sources", "b.txt"], ["--config"]])
def test_everything_else_passes(arguments: list[str], config: Path) -> None:
    config.write_text("trainer: {max_steps: 3}\n")
    Path("b.txt").write_text("- no: [configuration")
    check_config_files(arguments)


def test_later_file_is_read_too(config: Path) -> None:
    config.write_text("trainer: {}\n")
    Path("b.yaml").write_text("model: [")
    with pytest.raises(InputError, match=r"b.yaml"):
        check_config_files(["--config", "a.yaml", "--config", "b.yaml"])

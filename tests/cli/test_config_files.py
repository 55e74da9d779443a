"""Configuration files that are none are named."""

from pathlib import Path

import pytest
import yaml

from lit_gpt_kit import InputError
from lit_gpt_kit.cli.config_files import check_config_files, chooses_class
from tests.command import run

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


@pytest.mark.parametrize(
    ("arguments", "chooses"),
    [
        (["--data=my.Data"], True),
        (["--data", "my.Data"], True),
        (["--data.class_path=my.Data"], True),
        (["--data.batch_size=3"], False),
        (["--config", "class.yaml"], True),
        (["--config=name.yaml"], True),
        (["--config", "values.yaml"], False),
        (["--config", "values.yaml", "--config", "class.yaml"], True),
        (["--config", "broken.yaml"], False),
        (["--config", "missing.yaml"], False),
    ],
)
def test_who_chooses_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], chooses: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("class.yaml").write_text("data: {class_path: my.Data, init_args: {batch_size: 3}}")
    Path("name.yaml").write_text("data: my.Data")
    Path("values.yaml").write_text("data: {init_args: {batch_size: 3}}\nmodel: my.Model")
    Path("broken.yaml").write_text("data: [")
    assert chooses_class(arguments, "data") is chooses


def test_values_of_the_default_class_are_not_another_ones(tmp_path: Path) -> None:
    """The parser carries default values over from a default class, unless there is none."""
    (tmp_path / "other.yaml").write_text(
        "model: {class_path: lit_gpt_kit.SequenceClassification}\n"
        "data: {class_path: lit_gpt_kit.ClassificationDataModule, init_args: {sources: [x.csv]}}\n"
    )
    shown = run(tmp_path, "fit", "--config", str(tmp_path / "other.yaml"), "--print_config").out
    assert yaml.safe_load(shown)["data"]["init_args"]["batch_size"] == 16
    shown = run(tmp_path, "fit", "--data.sources=[x.txt]", "--print_config").out
    assert yaml.safe_load(shown)["data"]["init_args"]["batch_size"] == 8

"""What a report says of a run beside the references."""

from pathlib import Path

import pytest

from lit_gpt_kit.references import matching
from lit_gpt_kit.report.run import Run, read_runs
from lit_gpt_kit.report.standing import find_standings, references_of
from tests.references.made import FINGERPRINT, make_config, make_reference
from tests.report.made import write_run

METRICS = "step,train/tokens,val/loss\n10,100,3.15\n20,200,2.11\n30,300,{last}\n"


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "load_references", lambda: (make_reference("small"),))


def read(folder: Path, last: float = 1.12, fingerprint: str = FINGERPRINT, **changes: int) -> Run:
    write_run(folder, make_config(**changes), {"data_fingerprint": fingerprint})
    (folder / "metrics.csv").write_text(METRICS.format(last=last))
    (run,) = read_runs([folder])
    return run


def test_a_run_of_the_same_kind_is_held_against_its_reference(tmp_path: Path) -> None:
    normal, high = read(tmp_path / "normal"), read(tmp_path / "high", last=1.9)
    first, second = find_standings([normal, high])
    assert first.sentence.startswith("val/loss 1.1200 after 300 tokens: as expected of small")
    assert second.sentence.startswith("val/loss 1.9000 after 300 tokens: higher than expected")
    assert (first.run, second.run) == (normal, high)
    assert [reference.name for reference in references_of([first, second])] == ["small"]


def test_what_keeps_a_near_run_from_being_compared_is_said(tmp_path: Path) -> None:
    (standing,) = find_standings([read(tmp_path / "run", max_steps=60)])
    expected = "no reference to compare with: trainer.max_steps is 60, small has 30"
    assert standing.sentence == expected
    assert references_of([standing]) == []


def test_nothing_is_said_of_another_kind_of_run(tmp_path: Path) -> None:
    other = {"num_layers": 9, "max_steps": 60, "dropout": 0}
    assert find_standings([read(tmp_path / "run", fingerprint="ab" * 32, **other)]) == []

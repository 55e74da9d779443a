"""The measurements of tests/benchmarks: what is worked out, and one trial of the whole."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.benchmarks import recipes
from tests.benchmarks.__main__ import main as measure
from tests.benchmarks.contestants.assignment import Assignment
from tests.benchmarks.contestants.fit import duration
from tests.benchmarks.contestants.text import Characters
from tests.benchmarks.machine import shown_command
from tests.benchmarks.tables import replace_table, table
from tests.benchmarks.turns import Contestant, Turns, median, median_ratio

PAGE = "# Speed\n<!-- table: a -->\nold\n<!-- end -->\nafter\n<!-- table: b -->\n<!-- end -->\n"
TEXT = "the quick brown fox jumps over the lazy dog and runs away from it\n" * 60


def test_a_table_stands_between_its_marks_and_nothing_else_changes() -> None:
    content = table(["", "x"], [["one", "1"], ["two\\1", "2"]])
    assert content == "|  | x |\n| --- | --- |\n| one | 1 |\n| two\\1 | 2 |"
    page = replace_table(replace_table(PAGE, "b", "new"), "a", content)
    assert page == (
        f"# Speed\n<!-- table: a -->\n\n{content}\n\n<!-- end -->\nafter\n"
        "<!-- table: b -->\n\nnew\n\n<!-- end -->\n"
    )
    assert replace_table(page, "a", content) == page
    assert replace_table(replace_table(page, "a", "x"), "a", content) == page


@pytest.mark.parametrize(("name", "count"), [("c", 0), ("a", 2)])
def test_a_page_without_the_one_place_is_refused(name: str, count: int) -> None:
    page = PAGE + (PAGE if count else "")
    with pytest.raises(ValueError, match=f"{count} places between <!-- table: {name} -->"):
        replace_table(page, name, "x")


def test_the_command_of_a_page_names_no_folder_of_the_machine() -> None:
    arguments = ["--text", "/x/a b.txt", "--rounds", "3", "--output", "/x/y.json", "--litgpt=/z/p"]
    shown = shown_command("tests.benchmarks", arguments, ["--output"])
    assert shown.splitlines()[:3] == [
        "<!-- measured -->",
        "```bash",
        "python -m tests.benchmarks --text 'a b.txt' --rounds 3 --litgpt=p",
    ]


def test_medians_are_of_the_rounds_that_gave_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    turns = Turns({})
    for number, (our_rate, their_rate) in enumerate([(10.0, 5.0), (40.0, 10.0), (9.0, None)]):
        row = {"section": "training", "size": "s", "round": number}
        turns.add({**row, "contestant": "ours", "tokens_per_second": our_rate})
        turns.add({**row, "contestant": "theirs", "tokens_per_second": their_rate})
    assert len(capsys.readouterr().out.splitlines()) == 6
    ours, theirs = (
        turns.of("training", name, "s", "tokens_per_second") for name in ("ours", "theirs")
    )
    assert theirs == {0: 5.0, 1: 10.0}
    assert (median(ours), median(theirs)) == (10.0, 7.5)
    # 10/5 and 40/10; not 10/7.5.
    assert median_ratio(ours, theirs) == 3.0
    assert median(turns.of("learning", "ours", "s", "loss")) is None


def test_the_loss_is_over_each_character_of_the_validation_part_once(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    text = Characters(str(tmp_path / "text.txt"))
    assert len(text.val) == len(TEXT) - int(0.9 * len(TEXT))
    num_tokens = text.vocab_size
    scores = torch.randn(num_tokens, num_tokens, generator=torch.Generator().manual_seed(0))
    seen = []

    def loss_of(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets.flatten())
        return F.cross_entropy(scores[ids].flatten(0, 1), targets.flatten())

    # One row that is left over; a whole number of rows.
    for block_size in (7, len(text.val) - 1):
        seen.clear()
        loss = text.validate(loss_of, block_size, num_rows=3)
        assert torch.equal(torch.cat(seen), text.val[1:])
        exact = F.cross_entropy(scores[text.val[:-1]].double(), text.val[1:])
        assert loss == pytest.approx(exact.item(), rel=1e-6)


def test_rows_to_train_on_are_of_the_first_nine_tenths_and_shifted(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(chr(0x4E00 + i) for i in range(100)))
    ids, targets = Characters(str(tmp_path / "text.txt")).batch(500, 8)
    assert ids.shape == targets.shape == (500, 8)
    assert torch.equal(ids + 1, targets)
    assert (ids.min().item(), targets.max().item()) == (0, 89)


def test_seconds_as_lightning_writes_them() -> None:
    assert duration(60) == "00:00:01:00"
    assert duration(90_061) == "01:01:01:01"


def test_a_loss_is_reached_when_it_is_first_no_higher() -> None:
    losses = [(10.0, 2.0), (20.0, 1.88), (30.0, 1.9), (40.0, 1.5)]
    assert recipes.reached(losses, 1.88) == 20.0
    assert recipes.reached(losses, 1.4697) is None


def test_the_clock_of_a_recipe_stands_while_only_we_validate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = {
        "wall_seconds": 100.0,
        "training_seconds": 60.0,
        "validation_seconds": 30.0,
        "losses": [[20.0, 2.0], [60.0, 1.8]],
        "loss": None,
    }
    monkeypatch.setattr(recipes, "answer_of", lambda *_: answer)
    figures = recipes.nanogpt_recipe(Contestant("", ""), Assignment(""))
    # 10 of the 70 seconds that are left are the start.
    assert figures["wall_seconds"] == 70.0
    assert figures["losses"] == [(30.0, 2.0), (70.0, 1.8)]
    assert figures["loss"] == 1.8


@pytest.mark.slow
def test_a_quick_trial_of_the_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    page, output = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text("<!-- table: training -->\n<!-- end -->\n")
    size, how = ["--sizes", "0.8M", "--rounds", "1"], ["--steps", "20", "--threads", "1"]
    places = ["--text", f"{tmp_path}/text.txt", "--output", str(output), "--write", str(page)]
    measure(["--only", "training", *size, *how, *places])
    out = capsys.readouterr().out
    assert "left out: litgpt" in out
    figures = {turn["contestant"]: turn for turn in json.loads(output.read_text())["turns"]}
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line[:6] == "| 0.8M"]
    assert [row[1] for row in rows] == list(figures)
    assert set(figures) >= {"`lit-gpt fit`", "bare loop, our GPT", "transformers Trainer"}
    for row in rows:
        turn = figures[row[1]]
        assert turn["steps"] == 30
        assert float(row[2].replace(",", "")) == round(turn["tokens_per_second"]) > 0
        base = figures["bare loop, our GPT"]["tokens_per_second"]
        assert math.isclose(float(row[3]), turn["tokens_per_second"] / base, abs_tol=6e-4)
        # Python with torch alone takes more than 100 MB.
        assert float(row[5].removesuffix(" |").replace(",", "")) > 100
    assert str(tmp_path) not in page.read_text()


@pytest.mark.slow
def test_a_quick_trial_of_the_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    output = tmp_path / "figures.json"
    shape = "--model.gpt.num_layers=1 --model.gpt.block_size=16 --data.batch_size=2"
    steps = "--trainer.max_steps=4 --trainer.val_check_interval=2"
    ours = f"--config configs/shakespeare-char.yaml {shape} {steps}"
    how = ["--steps", "20", "--threads", "1", "--fit", ours]
    recipes.main(["--text", f"{tmp_path}/text.txt", "--output", str(output), *how])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    fp32, bf16, fit = json.loads(output.read_text())["turns"]
    assert [row[0][2:] for row in rows[2:]] == [turn["contestant"] for turn in (fp32, bf16, fit)]
    assert [row[2] for row in rows[2:]] == [f"{turn['loss']:.4f}" for turn in (fp32, bf16, fit)]
    assert len(fit["losses"]) == 2
    assert 0 < fit["losses"][0][0] < fit["losses"][1][0] <= fit["wall_seconds"]
    # Rounding is all that sets them apart.
    assert fp32["loss"] == pytest.approx(bf16["loss"], rel=1e-2)
    assert fp32["loss"] < math.log(65)

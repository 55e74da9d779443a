"""Models laid over two devices end where one device ends."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parallel.cases import RUNS, end_of, go_on
from tests.ranks import run_ranks
from tests.transformers_models import build, save

DROPPED = [f"dropped, {kind}" for kind in ("none", "selective", "full")]
EXACT = sorted(RUNS.keys() - {"bf16", "dropout, cut", "Muon, cut", *DROPPED})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, labelled rows and a pretrained model."""
    folder = tmp_path_factory.mktemp("laid_out")
    words = "the quick brown fox jumps over the lazy dog and runs away from it\n"
    (folder / "poem.txt").write_text("".join(words[i % 7 :] for i in range(40)))
    rows = [{"text": f"{'cd'[i % 2]} {'x' * (i * 7 % 5)}", "label": i % 2} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save(build("llama", "grouped"), folder / "base")
    end_of("one file", folder, is_spread=False)
    return folder


@pytest.fixture(scope="module")
def spread(folder: Path) -> dict[str, Any]:
    """How the runs ended on two ranks."""
    run_ranks("tests.parallel.cases", 2, str(folder))
    results: dict[str, Any] = torch.load(folder / "spread.pt", weights_only=True)
    return results


def tensors_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    tensors = dict(checkpoint["state_dict"])
    for index, values in checkpoint["optimizer_states"][0]["state"].items():
        tensors |= {f"{index} {key}": value for key, value in values.items()}
    return tensors


def assert_alike(
    actual: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-4, atol: float = 2e-6
) -> None:
    ours, theirs = tensors_of(actual), tensors_of(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=rtol, atol=atol, msg=name)
    assert actual["global_step"] == expected["global_step"]
    assert actual["lit_gpt_kit"] == expected["lit_gpt_kit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_ends_where_one_device_ends(name: str, folder: Path, spread: dict[str, Any]) -> None:
    one = end_of(name, folder, is_spread=False)
    for metric, value in one["metrics"].items():
        assert spread[name]["metrics"][metric] == pytest.approx(value, rel=1e-5), metric
    assert_alike(spread[name]["checkpoint"], one["checkpoint"])


@pytest.mark.slow
def test_muon_on_cut_matrices_is_muon(folder: Path, spread: dict[str, Any]) -> None:
    one, ours = end_of("Muon, cut", folder, is_spread=False), spread["Muon, cut"]
    for metric, value in one["metrics"].items():
        assert ours["metrics"][metric] == pytest.approx(value, rel=1e-3), metric
    # It sums in bfloat16, here over rows in another order.
    assert_alike(ours["checkpoint"], one["checkpoint"], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_half_precision_is_near_that_of_one_device(folder: Path, spread: dict[str, Any]) -> None:
    one = end_of("bf16", folder, is_spread=False)["metrics"]
    assert spread["bf16"]["metrics"]["val/loss"] == pytest.approx(one["val/loss"], rel=2e-3)
    saved = spread["bf16"]["checkpoint"]["state_dict"].values()
    assert {weight.dtype for weight in saved} == {torch.float32}


@pytest.mark.slow
def test_devices_that_share_rows_drop_alike(spread: dict[str, Any]) -> None:
    first, second = spread["dropped alike"]
    assert first == second


@pytest.mark.slow
def test_a_file_of_one_device_goes_on_cut_over_two(folder: Path, spread: dict[str, Any]) -> None:
    assert_alike(spread["from one file"], go_on(folder, folder / "one file.one.ckpt"))


@pytest.mark.slow
@pytest.mark.usefixtures("spread")
def test_adapters_alone_are_saved(spread: dict[str, Any]) -> None:
    names = spread["adapters"]["checkpoint"]["state_dict"]
    assert names
    assert all(".a" in name or ".b." in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", DROPPED[1:])
def test_shards_and_adapters_drop_alike_when_activations_are_made_twice(
    name: str, spread: dict[str, Any]
) -> None:
    expected, actual = (tensors_of(spread[run]["checkpoint"]) for run in (DROPPED[0], name))
    assert expected.keys() == actual.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_rank_is_said_by_all(spread: dict[str, Any]) -> None:
    first, second, left = spread["full disk"]
    assert first == second
    assert re.match(r"the disk that holds .*/full is full \([\d,]+ MiB free\); free some", first)
    assert left == []

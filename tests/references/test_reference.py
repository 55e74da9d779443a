"""Bands: by hand, by scipy's quantiles, by drawing; and the references that come along."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lit_gpt_kit.references import reference
from lit_gpt_kit.references.matching import differences
from lit_gpt_kit.references.reference import (
    COVERAGE,
    FEWEST_SEEDS,
    T_QUANTILES,
    Band,
    Reference,
    build_band,
    load_references,
    prediction_interval,
    read_reference,
)
from tests.command import run
from tests.conftest import REPOSITORY

SHIPPED = load_references()


@pytest.mark.parametrize(
    ("values", "mean", "half"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3.0, 2.776 * 2.5**0.5 * 1.2**0.5),  # 4.808
        ([1.0, 2.0, 3.0], 2.0, 4.303 * (4 / 3) ** 0.5),  # 4.969
        ([7.0] * 4, 7.0, 0.0),
    ],
)
def test_interval_by_hand(values: list[float], mean: float, half: float) -> None:
    assert prediction_interval(values) == pytest.approx((mean - half, mean, mean + half))


def test_quantiles_are_those_of_students_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    exact = [stats.t.ppf((1 + COVERAGE) / 2, n + 1) for n in range(len(T_QUANTILES))]
    assert pytest.approx(exact, abs=5e-4) == T_QUANTILES


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_band_holds_what_it_says_of_new_runs(num_seeds: int) -> None:
    runs = np.random.default_rng(0).normal(1.5, 0.01, (10_000, num_seeds + 1))
    within = 0
    for *seeds, new in runs.tolist():
        low, _, high = prediction_interval(seeds)
        within += low <= new <= high
    # Three standard errors of a share of 10,000.
    assert within / len(runs) == pytest.approx(COVERAGE, abs=0.0066)


def test_no_seed_lies_outside_its_own_band() -> None:
    """So a run that repeats one of the seeds is never called unusual."""
    for shipped in SHIPPED:
        for metric, band in shipped.curves.items():
            for curve in shipped.seeds[metric]:
                for value, low, high in zip(curve, band.low, band.high, strict=True):
                    assert low <= value <= high


def test_between_points_a_band_is_a_line_and_outside_nothing() -> None:
    band = Band((100, 300), (1.0, 0.0), (2.0, 1.0), (4.0, 2.0))
    assert band.at(100) == (1.0, 2.0, 4.0)
    assert band.at(150) == (0.75, 1.75, 3.5)
    assert band.at(300) == (0.0, 1.0, 2.0)
    assert band.at(99.9) is None
    assert band.at(300.1) is None
    assert Band((5,), (1.0,), (2.0,), (3.0,)).at(5) == (1.0, 2.0, 3.0)
    assert Band((), (), (), ()).at(5) is None


def test_a_file_becomes_bands() -> None:
    content: dict[str, Any] = {
        "provenance": {"date": "2026-01-01"},
        "data_fingerprint": "abc",
        "tokens_per_step": 64,
        "settings": {"trainer.max_steps": 6},
        "curves": {"val/loss": {"tokens": [64, 128], "values": [[3, 1], [4, 2], [5, 3]]}},
    }
    found = read_reference("tiny", yaml.safe_dump(content))
    assert (found.name, found.num_seeds, found.tokens_per_step) == ("tiny", 3, 64)
    band = found.curves["val/loss"]
    assert band == build_band([64, 128], [[3, 1], [4, 2], [5, 3]])
    assert band.middle == (4.0, 2.0)
    assert band.high[0] - band.low[0] == pytest.approx(2 * 4.9687, abs=1e-3)


def test_there_are_references() -> None:
    assert {shipped.name for shipped in SHIPPED} >= {"shakespeare-char", "shakespeare-char-nanogpt"}


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped.name)
def test_a_shipped_reference_is_small_whole_and_says_where_it_is_from(shipped: Reference) -> None:
    path = Path(reference.__file__).parent / f"{shipped.name}.yaml"
    assert path.stat().st_size < 8_000
    assert shipped.num_seeds == len(shipped.provenance["seeds"]) >= FEWEST_SEEDS
    assert set(shipped.provenance) >= {"command", "date", "hardware", "precision", "versions"}
    assert {"val/loss", "train/loss"} <= set(shipped.curves)
    # Seeds differ by hundredths, and what is learned shows.
    low, middle, high = shipped.curves["val/loss"].at(shipped.curves["val/loss"].tokens[-1]) or ()
    assert 0 < high - low < 0.2 < shipped.curves["val/loss"].middle[0] - middle
    steps = shipped.settings["trainer.max_steps"]
    assert shipped.curves["val/loss"].tokens[-1] == steps * shipped.tokens_per_step


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped.name)
def test_a_shipped_reference_fits_its_config_as_it_is_today(
    shipped: Reference, tmp_path: Path
) -> None:
    config = REPOSITORY / "configs" / f"{shipped.name}.yaml"
    shown = run(tmp_path, "fit", "--config", str(config), "--print_config").out
    assert differences(shipped, yaml.safe_load(shown), shipped.data_fingerprint) == []

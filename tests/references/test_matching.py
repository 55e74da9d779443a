"""What keeps a run from being compared, and what does not."""

from typing import Any

import pytest

from lit_gpt_kit.references import matching
from lit_gpt_kit.references.matching import (
    differences,
    find_nearest,
    find_reference,
    shaping_settings,
)
from tests.references.made import FINGERPRINT, make_config, make_reference

LARGER = {"num_layers": 9, "lr": 0.1, "dropout": 0.0, "max_steps": 77}


@pytest.fixture(autouse=True)
def two_references(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (make_reference("large", **LARGER), make_reference("small"))
    monkeypatch.setattr(matching, "load_references", lambda: found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed_everything": 7},
        {"seed": 7},
        {"precision": "32-true"},
        {"devices": 4, "strategy": "ddp", "accumulate_grad_batches": 2},
        {"sources": ["elsewhere/b.txt"]},
        {"batch_size": 1},
        {"fused": False},
        {"val_check_interval": 7, "log_every_n_steps": 3, "logger": []},
        {"callbacks": [{"class_path": "lit_gpt_kit.SampleText", "init_args": {}}]},
    ],
)
def test_a_run_of_the_same_kind_is_compared(changes: dict[str, Any]) -> None:
    found = find_reference(make_config(**changes), FINGERPRINT, 10.0)
    assert found is not None
    assert found.name == "small"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_layers": 6}, "model.init_args.gpt.num_layers is 6, small has 5"),
        ({"use_bias": None}, "model.init_args.gpt.use_bias is None, small has False"),
        ({"lr": 0.002}, "model.init_args.optimizer.init_args.lr is 0.002, small has 0.001"),
        ({"max_steps": 31}, "trainer.max_steps is 31, small has 30"),
        ({"gradient_clip_val": 1.0}, "trainer.gradient_clip_val is 1.0, small has None"),
        ({"val_fraction": 0.2}, "data.init_args.val_fraction is 0.2, small has 0.1"),
        (
            {"callbacks": [{"class_path": "lit_gpt_kit.callbacks.ema.EMAWeights"}]},
            "trainer.callbacks is lit_gpt_kit.callbacks.ema.EMAWeights, small has None",
        ),
    ],
)
def test_what_shapes_a_curve_is_said_where_it_differs(changes: dict[str, Any], said: str) -> None:
    config = make_config(**changes)
    assert find_reference(config, FINGERPRINT, 10.0) is None
    nearest = find_nearest(config, FINGERPRINT, 10.0)
    assert nearest is not None
    assert (nearest[0].name, nearest[1]) == ("small", [said])


def test_other_data_and_another_batch_differ() -> None:
    small, config = make_reference("small"), make_config()
    assert differences(small, config, "ff" * 32, 20.0) == [
        "its data are other than small's: another text, split or tokenizer",
        "a step has 20 tokens, small has 10",
    ]
    assert differences(small, config, None) == ["it is not known what data it was trained on"]
    assert differences(small, config, FINGERPRINT, 10.4) == []  # rows of unequal length


def test_a_run_that_differs_in_much_is_near_nothing() -> None:
    config = make_config(num_layers=7, lr=1.0, dropout=0.5, max_steps=1)
    assert find_nearest(config, FINGERPRINT) is None
    nearest = find_nearest(make_config(**{**LARGER, "num_layers": 8}), FINGERPRINT)
    assert nearest is not None
    assert nearest[0].name == "large"


def test_an_option_that_is_newer_than_the_reference_counts_where_it_is_on() -> None:
    small, config = make_reference("small"), make_config()
    gpt = config["model"]["init_args"]["gpt"]
    for off in (None, False, [], {}):
        gpt["use_new"] = off
        assert differences(small, config, FINGERPRINT) == []
    gpt["use_new"] = True
    said = "model.init_args.gpt.use_new is True, small has None"
    assert differences(small, config, FINGERPRINT) == [said]


def test_settings_are_flat_and_leave_out_places() -> None:
    settings = shaping_settings(make_config())
    assert settings["model.init_args.optimizer.init_args.lr"] == 0.001
    assert settings["trainer.max_steps"] == 30
    assert not {key for key in settings if "source" in key or "seed" in key or "precision" in key}
    empty = shaping_settings({"trainer": None})
    assert set(empty.values()) == {None}
    assert shaping_settings({"trainer": 5}) == empty  # a file that somebody has mangled

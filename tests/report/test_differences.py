"""What configurations differ in."""

from copy import deepcopy
from typing import Any

from lit_gpt_kit.report.differences import Difference, find_differences
from tests.report.made import CONFIG


def changed(*path: Any, to: Any) -> dict[str, Any]:
    config = deepcopy(CONFIG)
    place: Any = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return config


def test_equal_configurations_differ_in_nothing() -> None:
    assert find_differences([CONFIG]) == []
    assert find_differences([CONFIG, deepcopy(CONFIG)]) == []


def test_only_what_differs_is_named_seeds_and_places_last() -> None:
    other = changed("model", "init_args", "optimizer", "init_args", "lr", to=0.02)
    other["seed_everything"] = 1
    other["data"]["init_args"] |= {"sources": ["a.txt", "b.txt"], "cache_dir": "/x", "pack": True}
    assert find_differences([CONFIG, other, CONFIG]) == [
        Difference("model.init_args.optimizer.init_args.lr", ["0.01", "0.02", "0.01"], False),
        Difference(
            "data.init_args.sources", ['["a.txt"]', '["a.txt", "b.txt"]', '["a.txt"]'], False
        ),
        Difference("data.init_args.pack", ["-", "true", "-"], False),
        Difference("seed_everything", ["0", "1", "0"], True),
        Difference("data.init_args.cache_dir", ["-", "/x", "-"], True),
    ]


def test_callbacks_are_compared_by_their_class() -> None:
    ema = {"class_path": "lit_gpt_kit.EMAWeights", "init_args": {"decay": 0.9}}
    sample = {"class_path": "lit_gpt_kit.SampleText", "init_args": {"seed": 0}}
    faster = {**ema, "init_args": {"decay": 0.5}}
    one, other = (changed("trainer", "callbacks", to=c) for c in ([ema, sample], [sample, faster]))
    (found,) = find_differences([one, other])
    assert found == Difference(
        "trainer.callbacks.EMAWeights.init_args.decay", ["0.9", "0.5"], False
    )


def test_two_entries_of_one_class_are_two() -> None:
    early = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}
    late = {**early, "init_args": {"monitor": "val/f1"}}
    one, other = (changed("trainer", "callbacks", to=c) for c in ([early, late], [early, early]))
    (found,) = find_differences([one, other])
    assert found.values == ["val/f1", "val/loss"]


def test_a_run_without_a_configuration() -> None:
    found = find_differences([{}, {"a": {"b": 1}, "c": {}, "d": None}])
    assert [(d.key, d.values) for d in found] == [
        *(("a.b", ["-", "1"]), ("c", ["-", "{}"]), ("d", ["-", "null"]))
    ]

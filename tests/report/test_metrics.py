"""Which metrics share a chart."""

from lit_gpt_kit.report.metrics import group


def charts(*names: str) -> list[tuple[str, list[str]]]:
    return [(family.section, list(family.metrics)) for family in group(names)]


def test_losses_share_the_first_chart() -> None:
    names = ("train/lr", "val/perplexity", "val/loss", "train/tokens", "train/loss")
    assert charts(*names) == [
        ("Loss", ["train/loss", "val/loss"]),
        ("Validation", ["val/perplexity"]),
        ("Training", ["train/lr"]),
    ]


def test_parts_join_the_whole() -> None:
    names = ["val/f1_b", "val/f1_a", "val/f1", "train/grad_norm/mlp", "train/grad_norm"]
    assert charts(*names) == [
        ("Validation", ["val/f1", "val/f1_a", "val/f1_b"]),
        ("Training", ["train/grad_norm", "train/grad_norm/mlp"]),
    ]


def test_names_that_only_begin_alike_are_apart() -> None:
    assert charts("val/rouge1", "val/rouge2", "val/rougeL", "val/rouge12") == [
        ("Validation", [name]) for name in ("val/rouge1", "val/rouge2", "val/rougeL", "val/rouge12")
    ]
    names = ("train/tokens", "train/tokens_per_second", "train/step_seconds")
    assert charts(*names) == [("Speed", [name]) for name in names[1:]]


def test_each_name_once_whoever_logs_it() -> None:
    assert charts("val/loss", "val/loss", "a") == [("Loss", ["val/loss"]), ("Validation", ["a"])]


def test_what_nobody_knows_has_its_own_name() -> None:
    (family,) = group(["train/my_metric"])
    assert (family.title, family.section) == ("train/my_metric", "Training")

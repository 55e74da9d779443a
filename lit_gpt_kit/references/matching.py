"""Which reference a run can be compared with: one whose curves are shaped by the same things."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_gpt_kit.references.reference import Reference, load_references

TRAINER_SHAPES = (
    "max_steps",
    "max_epochs",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
)
"""What the Trainer has of it; the rest says where and how exactly the same thing is computed."""
CALLBACK_SHAPES = (
    "EMAWeights",
    "EMAWeightAveraging",
    "WeightAveraging",
    "StochasticWeightAveraging",
    "GradientAccumulationScheduler",
    "BackboneFinetuning",
    "ModelPruning",
)
"""Callbacks that do more than watch."""
LEFT_OUT = (
    # Another seed, and another place.
    "data.init_args.seed",
    "data.init_args.cache_dir",
    # The fingerprint tells the text, wherever it lies; the tokens of a step, how it is shared out.
    "data.init_args.sources",
    "data.init_args.batch_size",
    "data.init_args.global_batch_tokens",
    "data.init_args.global_batch_size",
    # What is read after training, and how the same numbers are computed.
    "data.init_args.test_sources",
    "data.init_args.predict_sources",
    "model.init_args.predict_top_k",
    "model.init_args.max_bad_steps",
    "model.init_args.execution",
    "model.init_args.optimizer.init_args.fused",
    "model.init_args.optimizer.init_args.foreach",
)
MOST_DIFFERENCES = 3
"""A run that differs in more is another run, and there is nothing to say about it."""
SAME_BATCH = 0.05
"""Rows of unequal length give steps of unequal length, but no other batch size so near."""


def find_reference(
    config: Mapping[str, Any], data_fingerprint: str | None, tokens_per_step: float | None = None
) -> Reference | None:
    """The reference whose curves a run should follow, or None.

    That asks for the same network, optimiser, schedule, number of steps, batch and data; seed,
    precision, devices, loggers and how often it validates may be others.

    Args:
        config: of the run, resolved: its config.yaml.
        data_fingerprint: `DataModule.identity["sha256"]` of its data; None where it is not known,
            and nothing fits then.
        tokens_per_step: of the run, over all devices; by default it is believed.
    """
    nearest = find_nearest(config, data_fingerprint, tokens_per_step)
    return nearest[0] if nearest is not None and not nearest[1] else None


def find_nearest(
    config: Mapping[str, Any], data_fingerprint: str | None, tokens_per_step: float | None = None
) -> tuple[Reference, list[str]] | None:
    """The reference from which a run differs least, and in what; None where that is much.

    Args:
        config: see `find_reference`.
        data_fingerprint: likewise.
        tokens_per_step: likewise.
    """
    near = [
        (reference, differences(reference, config, data_fingerprint, tokens_per_step))
        for reference in load_references()
    ]
    near = [pair for pair in near if len(pair[1]) <= MOST_DIFFERENCES]
    return min(near, key=lambda pair: len(pair[1]), default=None)


def differences(
    reference: Reference,
    config: Mapping[str, Any],
    data_fingerprint: str | None,
    tokens_per_step: float | None = None,
) -> list[str]:
    """What of a run keeps it from being compared with a reference, a line each, for people.

    Args:
        reference: what it would be compared with.
        config: see `find_reference`.
        data_fingerprint: likewise.
        tokens_per_step: likewise.
    """
    settings = shaping_settings(config)
    keys = dict.fromkeys([*reference.settings, *settings])  # in order, each once
    found = [
        f"{key} is {_show(settings.get(key))}, {reference.name} has "
        f"{_show(reference.settings.get(key))}"
        for key in keys
        if not _are_alike(settings, reference.settings, key)
    ]
    if data_fingerprint is None:
        found.append("it is not known what data it was trained on")
    elif data_fingerprint != reference.data_fingerprint:
        found.append(
            f"its data are other than {reference.name}'s: another text, split or tokenizer"
        )
    theirs = reference.tokens_per_step
    if tokens_per_step is not None and abs(tokens_per_step - theirs) > SAME_BATCH * theirs:
        found.append(
            f"a step has {tokens_per_step:,.0f} tokens, {reference.name} has {theirs:,.0f}"
        )
    return found


def shaping_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved configuration shapes the curves, by dotted key."""
    given = config.get("trainer")
    trainer = given if isinstance(given, Mapping) else {}
    settings = {f"trainer.{key}": trainer.get(key) for key in TRAINER_SHAPES}
    given = trainer.get("callbacks") or []
    paths = [c.get("class_path", "") for c in given if isinstance(c, Mapping)]
    active = [path for path in paths if path.rpartition(".")[2] in CALLBACK_SHAPES]
    settings["trainer.callbacks"] = active or None
    for part in ("model", "data"):
        settings.update(_flatten(config.get(part), part))
    return {key: value for key, value in settings.items() if not _is_left_out(key)}


def _flatten(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _flatten(part, f"{key}.{name}")
    else:
        yield key, value


def _is_left_out(key: str) -> bool:
    return any(key == left_out or key.startswith(f"{left_out}.") for left_out in LEFT_OUT)


def _are_alike(run: Mapping[str, Any], reference: Mapping[str, Any], key: str) -> bool:
    """An option that came after the reference was made changes nothing while it is off."""
    if key in run and key in reference:
        return bool(run[key] == reference[key])
    return run.get(key, reference.get(key)) in (None, False, [], {})


def _show(value: Any) -> str:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return ", ".join(map(str, value)) if is_list and value else str(value)

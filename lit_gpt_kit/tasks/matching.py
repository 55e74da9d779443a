"""Whether a configuration, a tokenizer, a pretrained model and a checkpoint go together."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lit_gpt_kit.checkpoints.native import Description
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

NAMES = tuple(field.name for field in fields(GPTConfig))


def fit_to_tokenizer(config: GPTConfig, tokenizer: Tokenizer) -> GPTConfig:
    """The configuration with vocabulary size and end token filled in.

    Raises:
        InputError: the vocabulary is too small for the tokenizer.
    """
    vocab_size = config.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"vocab_size={vocab_size} is smaller than the tokenizer's {tokenizer.vocab_size} "
            "tokens; leave vocab_size out, or use the tokenizer that belongs to the model"
        )
    end = config.end_token_id if config.end_token_id is not None else tokenizer.end_id
    return replace(config, vocab_size=vocab_size, end_token_id=end)


def check_pretrained(config: GPTConfig, theirs: GPTConfig, name: str) -> None:
    """Check that nothing was configured that a pretrained network has otherwise.

    Args:
        config: as configured; a default says nothing.
        theirs: the pretrained network's.
        name: what that is called.

    Raises:
        InputError: says what differs.
    """
    default = GPTConfig()
    for field in NAMES:
        value, found = getattr(config, field), getattr(theirs, field)
        if found is not None and value not in (found, getattr(default, field)):
            raise InputError(
                f"gpt.{field}={value!r} is not what pretrained={name} has, {found!r}; leave it out"
            )


def check_checkpoint(config: GPTConfig, tokenizer: Tokenizer | None, saved: Description) -> None:
    """Check that a checkpoint is of this network and this tokenizer.

    Raises:
        InputError: says what differs.
    """
    different = [
        f"{name}={getattr(config, name)!r} (checkpoint: {getattr(saved.config, name)!r})"
        for name in NAMES
        if getattr(config, name) != getattr(saved.config, name)
    ]
    if different:
        raise InputError(
            f"the checkpoint holds another network: {', '.join(different)}; use the configuration "
            "it was trained with"
        )
    theirs = saved.tokenizer
    if tokenizer and theirs and tokenizer.fingerprint != theirs.fingerprint:
        raise InputError(
            "the checkpoint was trained with another tokenizer than the data's; use the same "
            "sources and tokenizer settings, or give that tokenizer's file"
        )


def check_data(data: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a run goes on with the data of its checkpoint; warn where their order is another.

    Args:
        data: `DataModule.identity` of the run.
        saved: that of the checkpoint.

    Raises:
        InputError: the data are others; says what differs.
    """
    if data["sha256"] != saved["sha256"] and None not in (data["sha256"], saved["sha256"]):
        different = [
            f"{name}={data[name]} (checkpoint: {saved[name]})"
            for name in ("sources", "size")
            if data[name] != saved[name]
        ]
        raise InputError(
            "the checkpoint was trained on other data: "
            f"{', '.join(different) or 'the content of the sources has changed'}; give the data "
            "that it was trained on, or start a new run from its weights: leave --ckpt_path out "
            "and set model.init_args.pretrained to the checkpoint"
        )
    ours, theirs = data["order"], saved["order"]
    different = [
        f"{name}={ours[name]} (checkpoint: {theirs[name]})"
        for name in ours.keys() & theirs.keys()
        if ours[name] != theirs[name]
    ]
    if different:
        rank_zero_warn(
            f"rows come in another order than before the checkpoint: {', '.join(sorted(different))}"
            "; in this epoch some are read twice and others not at all"
        )

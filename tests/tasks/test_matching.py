"""What goes together, and what is told where it does not."""

from dataclasses import replace
from typing import Any

import pytest

from lit_gpt_kit import GPTConfig, InputError, TokenizerConfig
from lit_gpt_kit.checkpoints.native import Description
from lit_gpt_kit.tasks.matching import (
    check_checkpoint,
    check_data,
    check_pretrained,
    fit_to_tokenizer,
)
from lit_gpt_kit.tokenization.training import train_tokenizer
from tests.tiny import TINY

BYTE = train_tokenizer(TokenizerConfig("byte"), [])


def test_vocabulary_and_end_token_are_filled_in() -> None:
    assert fit_to_tokenizer(TINY, BYTE) == replace(TINY, vocab_size=257, end_token_id=256)
    given = replace(TINY, vocab_size=300, end_token_id=7)
    assert fit_to_tokenizer(given, BYTE) == given


def test_a_larger_vocabulary_is_padding_and_a_smaller_one_is_refused() -> None:
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
    assert fit_to_tokenizer(replace(TINY, vocab_size=320), tokenizer).vocab_size == 320
    with pytest.raises(InputError, match="vocab_size=100 is smaller than the tokenizer's 257"):
        fit_to_tokenizer(replace(TINY, vocab_size=100), tokenizer)


def test_padding_is_of_the_network_alone() -> None:
    config = fit_to_tokenizer(replace(TINY, pad_vocab_to_multiple_of=64), BYTE)
    assert (config.vocab_size, config.padded_vocab_size) == (257, 320)


def test_defaults_say_nothing_of_a_pretrained_network() -> None:
    theirs = replace(TINY, vocab_size=300, num_layers=7, position="rotary")
    check_pretrained(GPTConfig(), theirs, "base")
    check_pretrained(GPTConfig(num_layers=7), theirs, "base")
    with pytest.raises(InputError, match=r"gpt.num_layers=3 is not what pretrained=base has, 7; l"):
        check_pretrained(GPTConfig(num_layers=3), theirs, "base")


def test_what_tokenizers_fill_in_is_not_the_pretrained_networks() -> None:
    check_pretrained(replace(TINY, vocab_size=300, end_token_id=256), TINY, "base")


def test_checkpoint_of_the_same_goes_together() -> None:
    config = fit_to_tokenizer(TINY, BYTE)
    check_checkpoint(config, BYTE, Description(config, BYTE))
    check_checkpoint(config, None, Description(config, BYTE))
    check_checkpoint(config, BYTE, Description(config, None))


def test_checkpoint_of_something_else() -> None:
    words = r"another network: num_layers=2 \(checkpoint: 3\), dropout=0.0 \(checkpoint: 0.5\); use"
    with pytest.raises(InputError, match=words):
        check_checkpoint(TINY, BYTE, Description(replace(TINY, num_layers=3, dropout=0.5), BYTE))
    other = train_tokenizer(TokenizerConfig("byte", special_tokens=("<end>",)), [])
    with pytest.raises(InputError, match="with another tokenizer than the data's; use the same"):
        check_checkpoint(TINY, BYTE, Description(TINY, other))


def identity(**order: int) -> dict[str, Any]:
    order = {"seed": 0, "block_size": 16, "rows_per_step": 8, **order}
    return {"sources": ["a.txt"], "size": "90 tokens", "sha256": "ab", "order": order}


def test_other_data_are_refused_and_the_difference_is_said() -> None:
    check_data(identity(), {**identity(), "sources": ["moved.txt"]})
    check_data({**identity(), "sha256": None}, identity())  # a data module that does not say
    check_data(identity(), {**identity(), "sha256": None})
    with pytest.raises(InputError) as caught:
        check_data(identity(), {**identity(), "sources": ["b.txt"], "sha256": "cd"})
    assert str(caught.value) == (
        "the checkpoint was trained on other data: sources=['a.txt'] (checkpoint: ['b.txt']); "
        "give the data that it was trained on, or start a new run from its weights: leave "
        "--ckpt_path out and set model.init_args.pretrained to the checkpoint"
    )


@pytest.mark.parametrize("name", ["seed", "block_size", "rows_per_step"])
def test_another_order_of_rows_is_a_warning(name: str, recwarn: pytest.WarningsRecorder) -> None:
    check_data(identity(), identity())
    assert not recwarn.list
    check_data(identity(**{name: 99}), identity())
    (warning,) = recwarn.list
    was = identity()["order"][name]
    assert str(warning.message) == (
        f"rows come in another order than before the checkpoint: {name}=99 (checkpoint: {was}); "
        "in this epoch some are read twice and others not at all"
    )

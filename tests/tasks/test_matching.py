"""What goes together, and what is told where it does not."""

from dataclasses import replace

import pytest

from lit_gpt_kit import GPTConfig, InputError, TokenizerConfig
from lit_gpt_kit.checkpoints.native import Description
from lit_gpt_kit.tasks.matching import check_checkpoint, check_pretrained, fit_to_tokenizer
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

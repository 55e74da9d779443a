"""Sampling: each filter against transformers' own, and the choice against its distribution."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.generation.sampling import (
    SamplingConfig,
    choose_tokens,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token_distribution,
    penalise_repetition,
)

SEEDS = range(5)
NO_IDS = torch.zeros(8, 1, dtype=torch.int64)
# 99.9th percentile of chi-square with 19 degrees of freedom.
CHI_SQUARE_LIMIT = 43.82


def random_logits(seed: int, rows: int = 8, vocab: int = 97) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def processor(name: str, *args: Any) -> Any:
    return getattr(pytest.importorskip("transformers"), name)(*args)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 2, 10, 97, 1000])
def test_top_k_is_that_of_transformers(k: int, seed: int) -> None:
    logits = random_logits(seed)
    kept = keep_top_k(logits, k)
    assert torch.equal(kept, processor("TopKLogitsWarper", k)(NO_IDS, logits))
    assert (kept > -torch.inf).sum(dim=-1).tolist() == [min(k, 97)] * 8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9, 0.99])
def test_top_p_is_that_of_transformers(p: float, seed: int) -> None:
    logits = random_logits(seed)
    kept = keep_top_p(logits, p)
    assert torch.equal(kept, processor("TopPLogitsWarper", p)(NO_IDS, logits))
    assert (kept == -torch.inf).any(dim=-1).all()


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.1, 0.2]]).log()
    for p, kept in ((0.4, [1]), (0.6, [0, 1]), (0.8, [0, 1, 3]), (0.95, [0, 1, 2, 3])):
        assert (keep_top_p(logits, p)[0] > -torch.inf).nonzero().flatten().tolist() == kept


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("min_p", [0.001, 0.05, 0.5, 0.99])
def test_min_p_is_that_of_transformers(min_p: float, seed: int) -> None:
    logits = random_logits(seed)
    kept = keep_min_p(logits, min_p)
    assert torch.equal(kept, processor("MinPLogitsWarper", min_p)(NO_IDS, logits))
    assert (kept == -torch.inf).any(dim=-1).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
def test_repetition_penalty_is_that_of_transformers(penalty: float, seed: int) -> None:
    logits = random_logits(seed)
    ids = torch.randint(97, (8, 20), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros(8, 97, dtype=torch.bool).scatter_(1, ids, True)
    expected = processor("RepetitionPenaltyLogitsProcessor", penalty)(ids, logits)
    assert not torch.equal(expected, logits)
    assert torch.equal(penalise_repetition(logits, seen, penalty), expected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_is_that_of_transformers(temperature: float, seed: int) -> None:
    logits = random_logits(seed)
    expected = processor("TemperatureLogitsWarper", temperature)(NO_IDS, logits).softmax(-1)
    actual = next_token_distribution(logits, SamplingConfig(temperature=temperature))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_together_are_those_of_transformers(seed: int) -> None:
    logits = random_logits(seed)
    ids = torch.randint(97, (8, 20), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros(8, 97, dtype=torch.bool).scatter_(1, ids, True)
    config = SamplingConfig(
        temperature=0.7, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.2
    )
    scores = logits
    for name, value in (
        ("RepetitionPenaltyLogitsProcessor", 1.2),
        ("TemperatureLogitsWarper", 0.7),
        ("TopKLogitsWarper", 40),
        ("TopPLogitsWarper", 0.9),
        ("MinPLogitsWarper", 0.02),
    ):
        scores = processor(name, value)(ids, scores)
    torch.testing.assert_close(
        next_token_distribution(logits, config, seen), scores.softmax(dim=-1)
    )


def test_half_precision_logits_make_a_full_precision_distribution() -> None:
    logits = random_logits(0).bfloat16()
    actual = next_token_distribution(logits, SamplingConfig(temperature=0.5))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, (logits.float() / 0.5).softmax(dim=-1))


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.6),
        SamplingConfig(temperature=1.4, top_k=7),
        SamplingConfig(top_p=0.8),
        SamplingConfig(min_p=0.1),
        SamplingConfig(repetition_penalty=1.5),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"],
)
def test_frequencies_follow_the_distribution(config: SamplingConfig) -> None:
    draws = 20_000
    logits = random_logits(3, rows=1, vocab=20) / 3
    seen = torch.arange(20)[None] % 3 == 0
    expected = next_token_distribution(logits, config, seen)[0].double() * draws
    uniforms = torch.rand(draws, generator=torch.Generator().manual_seed(1))
    chosen = choose_tokens(
        logits.expand(draws, -1), config, uniforms, seen.expand(draws, -1).clone()
    )
    counts = torch.bincount(chosen, minlength=20)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    distances = (counts - expected).square()[possible] / expected[possible]
    assert distances.sum() < CHI_SQUARE_LIMIT


def test_a_uniform_number_falls_where_the_summed_distribution_says() -> None:
    logits = torch.tensor([[0.125, 0.5, 0.0, 0.375]]).log().expand(6, -1)
    uniforms = torch.tensor([0.0, 0.12, 0.13, 0.62, 0.63, 1 - 2**-24])
    assert choose_tokens(logits, SamplingConfig(), uniforms).tolist() == [0, 0, 1, 1, 3, 3]


@settings(max_examples=200, deadline=None)
@given(
    dropped=st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda d: not all(d)),
    # Uniform numbers are whole multiples of 2**-24 below 1; the ends are where rounding bites.
    place=st.integers(0, 2**24 - 1) | st.sampled_from([0, 1, 2**24 - 1]),
    scale=st.floats(0.1, 20),
)
def test_tokens_without_probability_are_never_chosen(
    dropped: list[bool], place: int, scale: float
) -> None:
    logits = torch.linspace(-1, 1, len(dropped))[None] * scale
    logits = logits.masked_fill(torch.tensor([dropped]), -torch.inf)
    chosen = choose_tokens(logits, SamplingConfig(), torch.tensor([place / 2**24]))
    assert not dropped[chosen.item()]


def test_a_sum_rounded_below_one_is_not_overrun() -> None:
    logits = random_logits(0, rows=100, vocab=5000)
    logits[:, -1] = -torch.inf
    sums = next_token_distribution(logits, SamplingConfig()).cumsum(dim=-1)[:, -1]
    largest = torch.full((100,), 1 - 2**-24)
    assert (sums <= largest).any()
    assert (choose_tokens(logits, SamplingConfig(), largest) < 4999).all()


def test_temperature_zero_takes_the_likeliest() -> None:
    logits, uniforms = random_logits(0), torch.rand(8)
    config = SamplingConfig(temperature=0.0, top_k=5, top_p=0.5)
    assert torch.equal(choose_tokens(logits, config, uniforms), logits.argmax(dim=-1))


def test_temperature_zero_heeds_the_repetition_penalty() -> None:
    config = SamplingConfig(temperature=0.0, repetition_penalty=2.0)
    logits = torch.tensor([[3.0, 2.0, -1.0]])
    seen = torch.tensor([[True, False, False]])
    assert choose_tokens(logits, config, torch.zeros(1)).tolist() == [0]
    assert choose_tokens(logits, config, torch.zeros(1), seen).tolist() == [1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"temperature": -0.5}, "temperature=-0.5 must be at least 0 (0 is greedy)"),
        ({"temperature": float("nan")}, "temperature=nan must be at least 0 (0 is greedy)"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1"),
        ({"min_p": -0.1}, "min_p=-0.1 must be at least 0 and below 1"),
        ({"min_p": 1.0}, "min_p=1.0 must be at least 0 and below 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
        ({"stop": ("\n", "")}, "a stop text is empty; every text contains the empty one"),
        ({"stop": "END"}, "stop='END' is one text; give a list of texts"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SamplingConfig(**values)
    assert str(caught.value) == message


def test_the_ends_of_the_ranges_are_allowed() -> None:
    SamplingConfig(max_new_tokens=1, temperature=0.0, top_k=1, top_p=1.0, min_p=0.0, stop=[])


# ---- as transformers' own loop puts them together ----


@settings(max_examples=60, deadline=None)
@given(
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.sampled_from([0.2, 0.6, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.2]),
    penalty=st.sampled_from([0.8, 1.0, 1.4]),
    seed=st.integers(0, 1000),
)
def test_order_and_result_are_those_of_generate(
    temperature: float, top_k: int | None, top_p: float, min_p: float, penalty: float, seed: int
) -> None:
    theirs = pytest.importorskip("transformers")
    logits = random_logits(seed, vocab=50)
    ids = torch.randint(50, (8, 12), generator=torch.Generator().manual_seed(seed))
    said = theirs.GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=top_k or 0,
        top_p=top_p,
        min_p=min_p or None,
        repetition_penalty=penalty,
    )
    scores = processors_of_generate(said)(ids, logits)
    seen = torch.zeros(8, 50, dtype=torch.bool).scatter_(1, ids, True)
    config = SamplingConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    actual = next_token_distribution(logits, config, seen)
    torch.testing.assert_close(actual, scores.softmax(dim=-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("penalty", [1.0, 1.8])
def test_greedy_is_that_of_generate(penalty: float) -> None:
    theirs = pytest.importorskip("transformers")
    logits = random_logits(7, vocab=50)
    ids = torch.randint(50, (8, 12), generator=torch.Generator().manual_seed(7))
    said = theirs.GenerationConfig(do_sample=False, repetition_penalty=penalty)
    expected = processors_of_generate(said)(ids, logits).argmax(dim=-1)
    seen = torch.zeros(8, 50, dtype=torch.bool).scatter_(1, ids, True)
    config = SamplingConfig(temperature=0.0, repetition_penalty=penalty)
    assert torch.equal(choose_tokens(logits, config, torch.zeros(8), seen), expected)


def processors_of_generate(said: Any) -> Any:
    """The list that transformers' `generate` runs the logits through."""
    theirs = pytest.importorskip("transformers")
    sizes = {"n_embd": 4, "n_layer": 1, "n_head": 1, "vocab_size": 50, "n_positions": 16}
    model = theirs.GPT2LMHeadModel(theirs.GPT2Config(**sizes))
    return model._get_logits_processor(
        generation_config=said, input_ids_seq_length=12, device="cpu"
    )


@settings(max_examples=100, deadline=None)
@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=12), k=st.integers(1, 14))
def test_top_k_keeps_all_that_tie_as_transformers_does(scores: list[int], k: int) -> None:
    logits = torch.tensor([scores], dtype=torch.float32)
    expected = processor("TopKLogitsWarper", k)(NO_IDS, logits)
    assert torch.equal(keep_top_k(logits, k), expected)


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.floats(-30, 30, width=32) | st.just(-torch.inf), min_size=1, max_size=12),
    p=st.floats(0.01, 0.99),
    min_p=st.floats(0.01, 0.99),
)
def test_the_likeliest_token_survives_every_filter(
    scores: list[float], p: float, min_p: float
) -> None:
    logits = torch.tensor([[*scores, 30.5]])
    for kept in (keep_top_p(logits, p), keep_min_p(logits, min_p), keep_top_k(logits, 1)):
        assert kept[0, -1] == 30.5
        assert ((kept == logits) | (kept == -torch.inf)).all()


def test_the_highest_random_number_chooses_no_token_of_probability_0() -> None:
    logits = torch.tensor([[0.3, 1.7, 0.9, -torch.inf], [2.0, 0.0, -torch.inf, -torch.inf]])
    highest = torch.full((2,), 1 - 2**-24)
    for scale in (0.1, 0.3, 1.0, 3.0):  # whose sums round otherwise
        chosen = choose_tokens(logits * scale, SamplingConfig(), highest)
        assert chosen.tolist() == [2, 1]
    # Rounded up to the sum itself.
    assert choose_tokens(logits, SamplingConfig(), torch.ones(2)).tolist() == [2, 1]


def test_scores_that_are_nan_choose_a_token_all_the_same() -> None:
    logits = torch.full((2, 5), float("nan"))
    chosen = choose_tokens(logits, SamplingConfig(), torch.tensor([0.1, 0.9]))
    assert chosen.tolist() == [0, 0]

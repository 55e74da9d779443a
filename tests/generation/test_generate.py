"""The cached loop against plain loops that read everything anew for each token."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.generation.generate import generate, generate_steps, ids_without_token
from lit_gpt_kit.generation.sampling import SamplingConfig, penalise_repetition
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

BuildGPT = Callable[..., GPT]
PROMPTS = [[5, 9, 2], [1], [7, 7, 3, 20, 11, 30, 4], [8, 6, 4, 2, 0]]
MODERN = {"norm": "rmsnorm", "mlp": "swiglu", "use_bias": False}
ARCHITECTURES = [
    pytest.param({"position": "rotary", "num_kv_heads": 2, **MODERN}, id="rotary, grouped queries"),
    pytest.param({"position": "rotary", "num_kv_heads": 1, "use_qk_norm": True}, id="one key head"),
    pytest.param({"position": "learned"}, id="learned"),
    pytest.param({"position": "sinusoidal", "mlp": "relu2"}, id="sinusoidal"),
    pytest.param({"position": "none", "head_dim": 12}, id="none"),
]


@torch.no_grad()
def greedy(model: GPT, prompt: list[int], num_tokens: int, penalty: float = 1.0) -> list[int]:
    """What `generate` should give: a whole forward pass over the context for each token."""
    context, text = list(prompt), list(prompt)
    block_size, vocab_size = model.config.block_size, model.config.vocab_size or 0
    for _ in range(num_tokens):
        if len(context) > block_size:
            context = context[-(block_size // 2) :]
        logits = model(torch.tensor([context]))[:, -1]
        seen = torch.zeros(1, vocab_size, dtype=torch.bool)
        seen[0, text] = True
        token_id = int(penalise_repetition(logits, seen, penalty).argmax())
        context.append(token_id)
        text.append(token_id)
    return text[len(prompt) :]


def finished(model: GPT, prompt: list[int], config: SamplingConfig, *args: Any) -> Any:
    """The one continuation, at its end."""
    *_, rows = generate_steps(model, [prompt], config, *args)
    return rows[0]


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_greedy_is_the_uncached_loop(random_gpt: BuildGPT, changes: dict[str, Any]) -> None:
    model = random_gpt(**changes)
    out = generate(model, PROMPTS, SamplingConfig(max_new_tokens=20, temperature=0.0))
    expected = [greedy(model, prompt, 20) for prompt in PROMPTS]
    assert out == expected
    assert len({token_id for row in out for token_id in row}) > 3


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_text_outgrows_the_block(random_gpt: BuildGPT, changes: dict[str, Any]) -> None:
    model = random_gpt(block_size=8, **changes)
    out = generate(model, PROMPTS, SamplingConfig(max_new_tokens=30, temperature=0.0))
    assert out == [greedy(model, prompt, 30) for prompt in PROMPTS]


def test_a_prompt_may_fill_the_block(random_gpt: BuildGPT) -> None:
    model, prompt = random_gpt(block_size=8), [3, 1, 4, 1, 5, 9, 2, 6]
    out = generate(model, [prompt, [5]], SamplingConfig(max_new_tokens=12, temperature=0.0))
    assert out == [greedy(model, prompt, 12), greedy(model, [5], 12)]


def test_a_block_of_one_token_still_grows(random_gpt: BuildGPT) -> None:
    model = random_gpt(block_size=1)
    with torch.no_grad():
        successor = model(torch.arange(31)[:, None])[:, -1].argmax(dim=-1).tolist()
    out = generate(model, [[5]], SamplingConfig(max_new_tokens=4, temperature=0.0))[0]
    assert out == [successor[token_id] for token_id in [5, *out[:-1]]]


def test_repetition_penalty_counts_prompt_and_new_tokens(random_gpt: BuildGPT) -> None:
    model = random_gpt(position="rotary")
    config = SamplingConfig(max_new_tokens=20, temperature=0.0, repetition_penalty=1.8)
    out = generate(model, PROMPTS, config)
    assert out == [greedy(model, prompt, 20, penalty=1.8) for prompt in PROMPTS]
    assert out != [greedy(model, prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize("changes", ARCHITECTURES)
@pytest.mark.parametrize("block_size", [8, 32])
def test_rows_do_not_depend_on_each_other(
    random_gpt: BuildGPT, block_size: int, changes: dict[str, Any]
) -> None:
    config = SamplingConfig(max_new_tokens=20, seed=1)
    endless = random_gpt(block_size=block_size, **changes)
    end = generate(endless, PROMPTS[:1], config)[0][12]
    model = random_gpt(block_size=block_size, end_token_id=end, **changes)
    alone = [generate(model, [prompt], config)[0] for prompt in PROMPTS]
    assert len({len(row) for row in alone}) > 1  # rows end at different times
    assert generate(model, PROMPTS, config) == alone
    assert generate(model, PROMPTS[::-1], config) == alone[::-1]


def test_sampling_follows_the_networks_distribution(random_gpt: BuildGPT) -> None:
    model, draws = random_gpt(), 4000
    config = SamplingConfig(max_new_tokens=2, temperature=0.8, seed=0)
    out = torch.tensor(generate(model, [[5, 9]] * draws, config))
    with torch.no_grad():
        first = (model(torch.tensor([[5, 9]]))[0, -1] / 0.8).softmax(dim=-1)
        contexts = torch.cat([torch.tensor([[5, 9]]).expand(31, -1), torch.arange(31)[:, None]], 1)
        second = first @ (model(contexts)[:, -1] / 0.8).softmax(dim=-1)
    for step, expected in ((0, first), (1, second)):
        frequencies = torch.bincount(out[:, step], minlength=31) / draws
        deviation = (expected * (1 - expected) / draws).sqrt()
        assert ((frequencies - expected).abs() < 4.5 * deviation + 1 / draws).all()


def test_the_seed_decides(random_gpt: BuildGPT) -> None:
    model = random_gpt()

    def sample(seed: int | None) -> list[int]:
        return generate(model, [[5]], SamplingConfig(max_new_tokens=20, seed=seed))[0]

    assert sample(0) == sample(0)
    assert len({tuple(sample(seed)) for seed in range(10)}) == 10
    assert len({tuple(sample(None)) for _ in range(10)}) == 10


def test_repeated_prompts_are_continued_in_several_ways(random_gpt: BuildGPT) -> None:
    model, config = random_gpt(), SamplingConfig(max_new_tokens=20, seed=0)
    out = generate(model, [[5], [6], [5], [5]], config)
    assert len(set(map(tuple, out))) == 4
    assert generate(model, [[5]] * 3, config) == [out[0], out[2], out[3]]


def test_prompts_do_not_share_their_luck(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)  # every token is as likely, whatever the prompt
    out = generate(model, [[5], [6]], SamplingConfig(max_new_tokens=20, seed=0))
    assert out[0] != out[1]


def test_the_random_numbers_of_others_are_left_alone(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    for seed in (0, None):
        before = torch.get_rng_state()
        generate(model, [[5]], SamplingConfig(max_new_tokens=3, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)


def test_no_prompts_give_nothing(random_gpt: BuildGPT) -> None:
    assert generate(random_gpt(), []) == []


def test_the_end_token_stops(random_gpt: BuildGPT) -> None:
    model, config = random_gpt(), SamplingConfig(max_new_tokens=20, temperature=0.0)
    endless = greedy(model, [5, 9, 2], 20)
    end = next(i for i in endless if endless.index(i) > 2)
    row = finished(random_gpt(end_token_id=end), [5, 9, 2], config)
    assert row.ids == endless[: endless.index(end)]
    assert row.finish_reason == "end"
    assert finished(model, [5, 9, 2], config).finish_reason == "length"


def test_generation_stops_once_every_row_has(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    ending = random_gpt(end_token_id=0)
    ending.load_state_dict(model.state_dict())  # all scores are 0, so the likeliest is token 0
    steps = list(generate_steps(ending, [[5], [6]], SamplingConfig(temperature=0.0)))
    assert len(steps) == 1
    assert generate(ending, [[5], [6]], SamplingConfig(temperature=0.0)) == [[], []]


def test_steps_grow_by_a_token(random_gpt: BuildGPT) -> None:
    config = SamplingConfig(max_new_tokens=6, temperature=0.0)
    lengths = []
    for rows in generate_steps(random_gpt(), [[5], [6]], config):
        lengths.append([len(row.ids) for row in rows])
    assert lengths == [[n, n] for n in range(1, 7)]


def test_a_prompt_longer_than_the_block_is_refused(random_gpt: BuildGPT) -> None:
    with pytest.raises(InputError) as caught:
        generate(random_gpt(block_size=8), [[1], [2] * 9])
    assert str(caught.value) == (
        "the prompt is 9 tokens long, longer than the model's block_size=8; shorten it"
    )


def test_an_empty_prompt_begins_after_the_end_token(random_gpt: BuildGPT) -> None:
    model = random_gpt(end_token_id=30)
    config = SamplingConfig(max_new_tokens=10, temperature=0.0)
    assert generate(model, [[]], config) == generate(model, [[30]], config)


def test_an_empty_prompt_without_end_token_is_refused(random_gpt: BuildGPT) -> None:
    with pytest.raises(InputError) as caught:
        generate(random_gpt(), [[]])
    assert str(caught.value) == ("the prompt is empty; give at least one character to start from")


def test_stop_texts_need_a_tokenizer(random_gpt: BuildGPT) -> None:
    with pytest.raises(InputError) as caught:
        generate(random_gpt(), [[5]], SamplingConfig(stop=["."]))
    assert str(caught.value) == "stop texts need a tokenizer; pass one to generate"


def test_a_stop_text_cuts_tokens_and_text(random_gpt: BuildGPT, byte_tokenizer: Tokenizer) -> None:
    model = random_gpt(vocab_size=257)
    free = SamplingConfig(max_new_tokens=30, seed=2)
    ids = generate(model, [list(b"hello")], free, byte_tokenizer)[0]
    stop = byte_tokenizer.decode(ids[7:9])
    start = byte_tokenizer.decode(ids).index(stop)
    config = SamplingConfig(max_new_tokens=30, seed=2, stop=[stop])
    row = finished(model, list(b"hello"), config, byte_tokenizer)
    assert row.finish_reason == "stop"
    assert row.text == byte_tokenizer.decode(ids)[:start]
    assert row.ids == ids[: len(row.ids)]
    assert generate(model, [list(b"hello")], config, byte_tokenizer) == [row.ids]


@pytest.mark.parametrize("seed", range(5))
def test_streamed_text_is_the_final_text(
    random_gpt: BuildGPT, byte_tokenizer: Tokenizer, seed: int
) -> None:
    model = random_gpt(vocab_size=257, end_token_id=256)
    config = SamplingConfig(max_new_tokens=60, seed=seed, temperature=2.0)
    shown = ["", ""]
    for rows in generate_steps(model, [list(b"hello"), []], config, byte_tokenizer):
        shown = [text + row.take_text() for text, row in zip(shown, rows, strict=True)]
    assert shown == [row.text for row in rows] == [byte_tokenizer.decode(r.ids) for r in rows]
    assert all(shown)


def test_bfloat16_networks_generate(random_gpt: BuildGPT) -> None:
    model = random_gpt(position="rotary", num_kv_heads=2).to(torch.bfloat16)
    out = generate(model, PROMPTS, SamplingConfig(max_new_tokens=5, seed=0))
    assert [len(row) for row in out] == [5] * 4


@torch.no_grad()
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 2.0, "seed": 3}])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_an_id_that_no_token_has_is_never_chosen(
    random_gpt: BuildGPT, sampling: dict[str, float], penalty: float
) -> None:
    """Pretrained models have more rows than tokens, and a tokenizer's ids may have gaps."""
    tokenizer = Tokenizer(Backend(WordLevel({f"<{n}>": n for n in range(31) if n != 13})))
    model = random_gpt(vocab_size=36, block_size=64)
    barred = torch.tensor([13, 31, 32, 33, 34, 35])
    assert torch.equal(ids_without_token(model, tokenizer).nonzero()[:, 0], barred)
    head = model.lm_head.weight
    head[barred] = 100 * head[:6]  # what would be chosen
    config = SamplingConfig(max_new_tokens=40, repetition_penalty=penalty, **sampling)  # type: ignore[arg-type]
    without = generate(model, PROMPTS, config)
    assert any(token_id in barred for row in without for token_id in row)
    chosen = generate(model, PROMPTS, config, tokenizer)
    assert not any(token_id in barred for row in chosen for token_id in row)
    head[barred] = 0.0
    model.lm_head.weight[barred] = head.mean()
    assert generate(model, PROMPTS, config, tokenizer) == chosen


def test_a_full_vocabulary_bars_nothing(random_gpt: BuildGPT, byte_tokenizer: Tokenizer) -> None:
    assert ids_without_token(random_gpt(vocab_size=31), byte_tokenizer) is None

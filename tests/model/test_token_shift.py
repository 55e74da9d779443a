"""Each token brings along a share of the one before it, however its row is read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_gpt_kit.checkpoints.export import export_folder
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer


@pytest.fixture
def model(random_gpt: Callable[..., GPT]) -> GPT:
    return random_gpt(position="rotary", use_token_shift=True)


def shifted_by_hand(model: GPT, tokens: Tensor) -> Tensor:
    """The logits of a network without the shift whose embeddings were given one."""
    assert model.token_shift is not None
    shift, model.token_shift = model.token_shift, None

    def add_share(module: object, args: object, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 1:] += shift.weight * model.token_embedding.weight[tokens[:, :-1]]
        return x

    handle = model.token_embedding.register_forward_hook(add_share)
    logits: Tensor = model(tokens)
    handle.remove()
    model.token_shift = shift
    return logits


@torch.no_grad()
def test_is_the_embedding_and_a_share_of_the_one_before(model: GPT) -> None:
    tokens = torch.randint(17, (2, 9))
    assert model.token_shift is not None
    assert float(model.token_shift.weight.abs().min()) > 0
    torch.testing.assert_close(model(tokens), shifted_by_hand(model, tokens))


@torch.no_grad()
def test_a_new_network_is_one_without_it(random_gpt: Callable[..., GPT], model: GPT) -> None:
    assert model.token_shift is not None
    model.init_weights()
    torch.nn.init.zeros_(model.token_shift.weight)
    plain = random_gpt(position="rotary")
    plain.load_state_dict(model.state_dict(), strict=False)
    tokens = torch.randint(17, (2, 9))
    assert torch.equal(model(tokens), plain(tokens))


@torch.no_grad()
def test_no_document_has_a_share_of_another(model: GPT) -> None:
    tokens = torch.randint(17, (1, 9))
    documents = torch.tensor([[0] * 4 + [1] * 5])
    alone = torch.cat([model(tokens[:, :4]), model(tokens[:, 4:])], dim=1)
    torch.testing.assert_close(model(tokens, documents), alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[11], [1] * 11, [4, 1, 6]])
def test_cached_logits_are_the_uncached(model: GPT, chunks: list[int]) -> None:
    tokens = torch.randint(17, (2, 11))
    cache = KVCache(model.config, batch_size=2, max_len=11)
    logits = [model(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padded_prompts_continue_as_each_alone(model: GPT) -> None:
    lengths = [3, 7, 1, 5]
    prompts, continuation = torch.randint(17, (4, 7)), torch.randint(17, (4, 4))
    cache = KVCache(model.config, batch_size=4, max_len=11)
    model(prompts, cache=cache, counts=lengths)
    steps = [model(continuation[:, t : t + 1], cache=cache) for t in range(4)]
    for row, length in enumerate(lengths):
        alone = model(torch.cat([prompts[row, :length], continuation[row]])[None])[0]
        continued = torch.cat(steps, dim=1)[row]
        torch.testing.assert_close(continued, alone[length:], rtol=1e-4, atol=1e-5)


def test_no_other_format_holds_it(random_gpt: Callable[..., GPT], tmp_path: Path) -> None:
    llama = {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False}
    model = random_gpt(vocab_size=257, use_token_shift=True, **llama)
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
    with pytest.raises(InputError, match="use_token_shift"):
        export_folder(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_a_draft_that_was_taken_back_leaves_nothing(model: GPT) -> None:
    tokens = torch.randint(17, (1, 6))
    cache = KVCache(model.config, batch_size=1, max_len=12)
    model(tokens[:, :4], cache=cache)
    model(torch.randint(17, (1, 3)), cache=cache)
    cache.lengths = [4]
    torch.testing.assert_close(
        model(tokens[:, 4:], cache=cache), model(tokens)[:, 4:], rtol=1e-4, atol=1e-5
    )

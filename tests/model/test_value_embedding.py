"""The values of some layers also hold a row for each token, however its row is read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_gpt_kit.checkpoints.export import export_folder
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.attention import CausalSelfAttention
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.value_embedding import ValueEmbedding
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer


@pytest.fixture
def model(random_gpt: Callable[..., GPT]) -> GPT:
    return random_gpt(position="rotary", num_kv_heads=2, value_embedding_layers=(1,))


def attention_of(model: GPT, layer: int) -> CausalSelfAttention:
    attention = model.blocks[layer].attention
    assert isinstance(attention, CausalSelfAttention)
    return attention


def added_by_hand(model: GPT, tokens: Tensor) -> Tensor:
    """The logits of a network without tables whose second layer's values were added to."""
    attention = attention_of(model, 1)
    table, attention.value_embedding = attention.value_embedding, None
    assert table is not None
    kv_dim = attention.splits[2]

    def add_rows(module: object, args: object, qkv: Tensor) -> Tensor:
        qkv = qkv.clone()
        qkv[..., -kv_dim:] += table.scale.item() * table.weight[tokens]
        return qkv

    handle = attention.qkv.register_forward_hook(add_rows)
    logits: Tensor = model(tokens)
    handle.remove()
    attention.value_embedding = table
    return logits


@torch.no_grad()
def test_values_hold_a_share_of_the_tokens_row(model: GPT) -> None:
    tokens = torch.randint(17, (2, 9))
    assert attention_of(model, 0).value_embedding is None
    table = attention_of(model, 1).value_embedding
    assert table is not None
    assert table.weight.shape == (17, 2 * 8)
    torch.testing.assert_close(model(tokens), added_by_hand(model, tokens))
    table.weight[5] += 1.0
    changed = model(torch.full((1, 3), 5))
    table.weight[5] -= 1.0
    assert not torch.allclose(changed, model(torch.full((1, 3), 5)))


def test_a_new_table_is_drawn_as_embeddings_are_and_learns_the_rows_it_reads() -> None:
    shape = {"vocab_size": 170, "block_size": 16, "num_layers": 2, "num_heads": 4, "embed_dim": 64}
    model = GPT(GPTConfig(**shape, init_std=0.3, value_embedding_layers=(0, 1)))
    tokens = torch.tensor([[3, 5, 3]])
    model(tokens).square().sum().backward()
    for layer in (0, 1):
        table = attention_of(model, layer).value_embedding
        assert isinstance(table, ValueEmbedding)
        assert table.scale.tolist() == [1.0]
        assert float(table.weight.std()) == pytest.approx(0.3, rel=0.05)
        assert table.weight.grad is not None
        assert table.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [3, 5]


@torch.no_grad()
def test_documents_of_a_row_are_read_as_each_alone(model: GPT) -> None:
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


def test_no_other_format_holds_it(random_gpt: Callable[..., GPT], tmp_path: Path) -> None:
    llama = {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False}
    model = random_gpt(vocab_size=257, value_embedding_layers=(0,), **llama)
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
    with pytest.raises(InputError, match=r"value_embedding_layers=\(0,\)"):
        export_folder(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layer", [-1, 2])
def test_refuses_a_layer_that_is_not_there(layer: int) -> None:
    said = f"value_embedding_layers names layer {layer}; num_layers=2 are counted from 0"
    with pytest.raises(InputError, match=said):
        GPTConfig(num_layers=2, value_embedding_layers=(0, layer))

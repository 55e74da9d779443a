"""Rows for no token: a rounder number of them, and never a token that is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_gpt_kit import SamplingConfig, generate
from lit_gpt_kit.checkpoints.export import export_folder
from lit_gpt_kit.checkpoints.load import load_model
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer

MakeGPT = Callable[..., GPT]


@pytest.mark.parametrize(
    ("vocab_size", "multiple", "rows"),
    [(50257, 1, 50257), (50257, 64, 50304), (50304, 64, 50304), (1, 128, 128)],
)
def test_tables_have_a_multiple_of_rows(vocab_size: int, multiple: int, rows: int) -> None:
    config = GPTConfig(
        vocab_size, num_layers=1, pad_vocab_to_multiple_of=multiple, tie_embeddings=False
    )
    with torch.device("meta"):
        model = GPT(config, initialize=False)
    assert config.vocab_size == vocab_size
    assert model.token_embedding.weight.shape == model.lm_head.weight.shape == (rows, 768)
    assert model(torch.zeros(1, 2, dtype=torch.int64, device="meta")).shape == (1, 2, rows)


@torch.no_grad()
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 2.0, "seed": 3}])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_padding_is_never_chosen(
    random_gpt: MakeGPT, sampling: dict[str, float], penalty: float
) -> None:
    padded = random_gpt(pad_vocab_to_multiple_of=32, tie_embeddings=False, block_size=64)
    plain = random_gpt(tie_embeddings=False, block_size=64)
    weights = padded.state_dict()
    for name in ("token_embedding.weight", "lm_head.weight"):
        weights[name] = weights[name][:17]
    plain.load_state_dict(weights)
    padded.lm_head.weight[17:] = 100 * padded.lm_head.weight[:15]  # what would be chosen
    config = SamplingConfig(max_new_tokens=40, repetition_penalty=penalty, **sampling)  # type: ignore[arg-type]
    prompts = [[3, 5, 3], [1]]
    assert padded(torch.tensor([[3, 5, 3]]))[0, -1].argmax() >= 17
    assert generate(padded, prompts, config) == generate(plain, prompts, config)
    with pytest.raises(InputError, match="token 17 is not one of the model's 17 tokens"):
        generate(padded, [[17]], config)


@torch.no_grad()
def test_hugging_face_keeps_the_rows(random_gpt: MakeGPT, tmp_path: Path) -> None:
    model = random_gpt(vocab_size=257, pad_vocab_to_multiple_of=64)
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
    assert export_folder(model, tokenizer, tmp_path / "out") == "gpt2"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.randint(257, (2, 9))
    assert theirs.config.vocab_size == 320
    torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-4)
    again, _ = load_model(str(tmp_path / "out"))
    assert again.config.vocab_size == 320
    torch.testing.assert_close(again(ids), model(ids), rtol=1e-4, atol=1e-4)


def test_refuses_a_multiple_that_is_none() -> None:
    with pytest.raises(InputError, match=r"^pad_vocab_to_multiple_of=0 must be at least 1$"):
        GPTConfig(vocab_size=17, pad_vocab_to_multiple_of=0)

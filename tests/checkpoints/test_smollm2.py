"""A real pretrained model: SmolLM2-135M-Instruct, as its GGUF file comes from a package index."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_gpt_kit import GPT, SamplingConfig, Tokenizer, generate, load_model
from lit_gpt_kit.checkpoints.export import export_folder
from lit_gpt_kit.devices import cpu_instructions
from lit_gpt_kit.model.int8 import quantize_int8
from lit_gpt_kit.tokenization.chat_template import chat_end_ids, encode_chat
from tests.smollm2 import smollm2_gguf

pytestmark = pytest.mark.slow
QUESTION = "What is the capital of France?"


def answer(model: GPT, tokenizer: Tokenizer) -> str:
    prompt = encode_chat(tokenizer, [{"role": "user", "content": QUESTION}])
    config = SamplingConfig(max_new_tokens=20, temperature=0.0)
    (ids,) = generate(model, [prompt], config, stop_ids=chat_end_ids(tokenizer))
    return tokenizer.decode(ids)


def test_answers_in_chatml_as_transformers_does(tmp_path: Path) -> None:
    model, tokenizer = load_model(smollm2_gguf())
    assert model.num_parameters() == 134_515_008
    prompt = encode_chat(tokenizer, [{"role": "user", "content": QUESTION}])
    text = tokenizer.decode(prompt)
    assert text.endswith(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    assert answer(model, tokenizer) == "The capital of France is Paris."

    # transformers' own reader of the same file is compared tensor by tensor in test_gguf.py; its
    # network is compared here, on the weights that ours gives back.
    export_folder(model, tokenizer, tmp_path / "folder")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    words = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert words(text, add_special_tokens=False).input_ids == prompt
    ids = torch.tensor([prompt])
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids)).abs().max() < 1e-3
        out = theirs.generate(ids, max_new_tokens=20, do_sample=False)[0, len(prompt) :]
    assert words.decode(out, skip_special_tokens=True) == "The capital of France is Paris."


def surprise(model: GPT, tokenizer: Tokenizer) -> float:
    """The loss of each token of the right answer, which greedy choices may miss by rounding."""
    prompt = encode_chat(tokenizer, [{"role": "user", "content": QUESTION}])
    ids = torch.tensor(prompt + tokenizer.encode("The capital of France is Paris."))
    with torch.inference_mode():
        logits = model.eval()(ids[None, :-1])[0].float()
    first = len(prompt) - 1
    return float(F.cross_entropy(logits[first:], ids[first + 1 :]))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_answers_in_fewer_bits(precision: str) -> None:
    exact = surprise(*load_model(smollm2_gguf()))
    model, tokenizer = load_model(smollm2_gguf(), torch.bfloat16)
    if precision == "int8":
        quantize_int8(model)
    assert surprise(model, tokenizer) == pytest.approx(exact, abs=0.2)
    if precision == "int8" or cpu_instructions() is not None:  # emulated, bf16 rounds otherwise
        assert "Paris" in answer(model, tokenizer)


def test_the_command_answers() -> None:
    code = "from lit_gpt_kit.cli.main import main; main()"
    command = [sys.executable, "-c", code, "chat", str(smollm2_gguf()), "--temperature", "0"]
    done = subprocess.run(
        command, input=f"{QUESTION}\n", capture_output=True, text=True, check=True
    )
    assert done.stdout == "The capital of France is Paris.\n"

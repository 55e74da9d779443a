"""LanguageModeling: its metrics, predictions and texts, against float64 and torch itself."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_gpt_kit import (
    InputError,
    LanguageModeling,
    SamplingConfig,
    TextDataModule,
    Tokenizer,
    TokenizerConfig,
    generate,
)
from lit_gpt_kit.model.loss import IGNORE_INDEX
from lit_gpt_kit.tokenization.training import train_tokenizer
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]
LIVELY = replace(TINY, init_std=0.5)
"""Weights so large that no two tokens look alike."""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Forty short documents, one a line."""
    path = tmp_path / "documents.jsonl"
    texts = [f"the fox number {i} runs {'and runs ' * (i % 4)}over the dög" for i in range(40)]
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    return path


def log_probabilities(task: LanguageModeling, rows: Tensor) -> Tensor:
    """Those of the tokens that follow, by a float64 copy of the network."""
    network = task.network.double().eval()
    with torch.no_grad():
        scores = network(rows[:, :-1]).log_softmax(-1)
    task.network.float()
    return scores.gather(-1, rows[:, 1:, None]).squeeze(-1)


def reference(task: LanguageModeling, ids: list[int]) -> tuple[float, int]:
    """Summed nats and number of targets of a text cut into rows of the block."""
    total, count, block = 0.0, 0, task.block_size
    for start in range(0, len(ids) - 1, block):
        row = torch.tensor([ids[start : start + block + 1]])
        total -= float(log_probabilities(task, row).sum())
        count += row.shape[1] - 1
    return total, count


@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_are_those_of_the_whole_split(
    split: str, batch_size: int, documents: Path, make_data: MakeData, tmp_path: Path
) -> None:
    special = TokenizerConfig("bpe", 300, special_tokens=("<end>", "<user>"))
    data = make_data(sources=[str(documents)], tokenizer=special, batch_size=batch_size)
    task = make_task(LIVELY)
    trainer = make_trainer(tmp_path, 1)
    run = trainer.validate if split == "val" else trainer.test
    (scores,) = run(task, data, verbose=False)

    stream = data.val_stream
    ids = stream.read(0, stream.num_tokens).tolist()
    assert len(ids) > 3 * TINY.block_size
    nll, num_targets = reference(task, ids)
    assert num_targets == len(ids) - 1
    text = data.tokenizer.decode(ids[1:]).replace("<end>", "")  # an end token is no text
    assert len(text.encode()) > len(text)
    expected = {
        "loss": nll / num_targets,
        "perplexity": math.exp(nll / num_targets),
        "bits_per_byte": nll / math.log(2) / len(text.encode()),
    }
    assert set(scores) == {f"{split}/{name}" for name in expected}
    for name, value in expected.items():
        assert scores[f"{split}/{name}"] == pytest.approx(value, rel=1e-5), name


def test_metrics_begin_anew_each_time(make_data: MakeData, tmp_path: Path) -> None:
    task, data = make_task(LIVELY), make_data()
    trainer = make_trainer(tmp_path, 1)
    first, second = (trainer.validate(task, data, verbose=False) for _ in range(2))
    assert first == second


def test_padding_of_the_vocabulary_stands_for_no_bytes(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task(replace(LIVELY, vocab_size=320))
    (scores,) = make_trainer(tmp_path, 1).validate(task, make_data(), verbose=False)
    assert task._byte_lengths.shape == (320,)
    assert task._byte_lengths.tolist() == [1] * 256 + [0] * 64
    assert scores["val/bits_per_byte"] > 0


def test_metrics_are_no_part_of_the_weights() -> None:
    task = make_task(replace(TINY, vocab_size=11))
    task.configure_model()
    assert all(name.startswith("model.") for name in task.state_dict())


# ---- packed rows ----


def test_isolated_documents_do_not_see_each_other(
    documents: Path, make_data: MakeData, tmp_path: Path
) -> None:
    data = make_data(sources=[str(documents)], isolate_documents=True, batch_size=2)
    config = replace(LIVELY, block_size=64, position="rotary")
    task = make_task(config)
    (scores,) = make_trainer(tmp_path, 1).validate(task, data, verbose=False)
    total, count, num_bytes = 0.0, 0, 0
    for document in parts_of_rows(data, 64):
        if len(document) > 1:
            total -= float(log_probabilities(task, torch.tensor([document])).sum())
            count += len(document) - 1
            num_bytes += sum(token != 256 for token in document[1:])
    assert count > 100
    assert scores["val/loss"] == pytest.approx(total / count, rel=1e-5)
    assert scores["val/bits_per_byte"] == pytest.approx(total / math.log(2) / num_bytes, rel=1e-5)

    mixed = make_data(sources=[str(documents)], batch_size=2)
    (others,) = make_trainer(tmp_path, 1).validate(make_task(config), mixed, verbose=False)
    assert abs(others["val/loss"] - scores["val/loss"]) > 1e-3


def parts_of_rows(data: TextDataModule, block_size: int) -> list[list[int]]:
    """The pieces of documents that rows of the block, and the target after each, hold."""
    ids = data.val_stream.read(0, data.val_stream.num_tokens).tolist()
    parts: list[list[int]] = []
    for start in range(0, len(ids) - 1, block_size):
        part: list[int] = []
        for token in ids[start : start + block_size + 1]:
            part.append(token)
            if token == 256:  # the end token belongs to the document that it ends
                parts.append(part)
                part = []
        parts.append(part)
    return parts


# ---- predictions ----


@pytest.mark.parametrize("top_k", [1, 3, 500])
def test_predictions_are_log_softmax(top_k: int) -> None:
    task = make_task(replace(LIVELY, vocab_size=11), predict_top_k=top_k)
    task.configure_model()
    rows = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    targets = rows[:, 1:].clone()
    targets[1, 3:] = IGNORE_INDEX
    batch = {"input_ids": rows[:, :-1], "targets": targets}
    with torch.no_grad():
        out = task.eval().predict_step(batch, 0)
        expected = task.network.double()(rows[:, :-1]).log_softmax(-1)
    k = min(top_k, 11)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "input_ids": (2, 8),
        "targets": (2, 8),
        "log_probs": (2, 8),
        "top_ids": (2, 8, k),
        "top_log_probs": (2, 8, k),
    }
    chosen = expected.gather(-1, rows[:, 1:, None]).squeeze(-1)
    chosen[1, 3:] = 0
    torch.testing.assert_close(out["log_probs"].double(), chosen, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        out["top_log_probs"].double(), expected.topk(k).values, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(out["top_ids"], expected.topk(k).indices)
    assert torch.equal(out["targets"], targets)


def test_predict_reads_the_whole_text(make_data: MakeData, tmp_path: Path) -> None:
    task, data = make_task(LIVELY), make_data()
    rows: Any = make_trainer(tmp_path, 1).predict(task, data)
    targets = torch.cat([batch["targets"] for batch in rows]).flatten()
    log_probs = torch.cat([batch["log_probs"] for batch in rows]).flatten()
    ids = data.predict_stream.read(0, data.predict_stream.num_tokens).tolist()
    assert targets[targets != IGNORE_INDEX].tolist() == ids[1:]
    nll, _ = reference(task, ids)
    assert float(-log_probs.sum()) == pytest.approx(nll, rel=1e-5)


# ---- texts ----


@pytest.fixture
def writer() -> LanguageModeling:
    task = make_task(replace(LIVELY, tie_embeddings=False, dropout=0.5))
    task.tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
    task.configure_model()
    return task


def test_a_model_that_is_laid_over_devices_writes_no_text(writer: LanguageModeling) -> None:
    mesh: Any = "a mesh"
    writer._device_mesh = mesh
    with pytest.raises(InputError, match="laid over devices writes no text in training; use its"):
        writer.generate("a")


def test_generate_returns_the_new_text_alone(writer: LanguageModeling) -> None:
    tokenizer: Any = writer.tokenizer
    text = writer.generate("the fox", max_new_tokens=20, temperature=0.7, seed=1)
    config = SamplingConfig(max_new_tokens=20, temperature=0.7, seed=1)
    (ids,) = generate(writer.network.eval(), [tokenizer.encode("the fox")], config)
    assert text == tokenizer.decode(ids)
    assert not text.startswith("the fox")
    assert len(ids) > 5


@pytest.mark.parametrize("is_training", [True, False])
def test_generate_leaves_the_mode_as_it_was(is_training: bool, writer: LanguageModeling) -> None:
    writer.train(is_training)
    texts = {writer.generate("the", max_new_tokens=10, seed=1) for _ in range(3)}
    assert writer.training is is_training
    assert writer.network.blocks.training is is_training
    assert len(texts) == 1  # no dropout while it writes


def test_generate_draws_no_random_number_of_training(writer: LanguageModeling) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    writer.generate("the", max_new_tokens=5)
    assert torch.equal(torch.rand(1), expected)


def test_generate_leaves_no_gradient(writer: LanguageModeling) -> None:
    writer.generate("the", max_new_tokens=3)
    assert all(parameter.grad is None for parameter in writer.parameters())


def test_stop_text_ends_the_text(writer: LanguageModeling) -> None:
    text = writer.generate("the", max_new_tokens=30, seed=2)
    stop = text[4]
    cut = writer.generate("the", max_new_tokens=30, seed=2, stop=[stop])
    assert cut == text[: text.index(stop)]


CONVERSATIONS = [
    [{"role": "user", "content": "hi"}],
    [{"role": "system", "content": "Bark."}, {"role": "user", "content": "the quick brown fox"}],
    [{"role": "user", "content": text} for text in ("a", "b")],
]


@pytest.fixture
def talker() -> LanguageModeling:
    torch.manual_seed(0)
    config = replace(LIVELY, block_size=256, position="rotary", tie_embeddings=False)
    task = make_task(config)
    task.tokenizer = train_tokenizer(TokenizerConfig("byte"), [])
    task.configure_model()
    return task


def test_conversations_answered_together_are_those_answered_alone(talker: LanguageModeling) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0.0}
    together = talker.answer(CONVERSATIONS, **options)
    alone = [talker.answer([messages], **options)[0] for messages in CONVERSATIONS]
    assert together == alone
    assert len(set(together)) == 3


def test_answer_is_what_follows_the_chat_template(talker: LanguageModeling) -> None:
    (answer,) = talker.answer(CONVERSATIONS[:1], max_new_tokens=20, temperature=0.0)
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    text = talker.generate(prompt, max_new_tokens=20, temperature=0.0, stop=["<|im_end|>"])
    assert answer == text.strip()


def test_answer_ends_where_a_turn_ends(
    talker: LanguageModeling, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = talker.answer(CONVERSATIONS[:1], max_new_tokens=20, temperature=0.0)
    end = whole[3]
    monkeypatch.setattr("lit_gpt_kit.tokenization.chat_template.TURN_ENDS", (end,))
    talker.tokenizer = with_template(talker, "{{ messages[0].content }}" + f"{{# {end} #}}")
    (again,) = talker.answer(
        [[{"role": "user", "content": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"}]],
        max_new_tokens=20,
        temperature=0.0,
    )
    assert again == whole[: whole.index(end)].strip()


def with_template(task: LanguageModeling, template: str) -> Tokenizer:
    old: Any = task.tokenizer
    return Tokenizer(old.backend, old.end_token, template)


def test_letters_before_a_stop_text_inside_a_token_are_kept(talker: LanguageModeling) -> None:
    texts = ["abcdef ghijkl " * 20]
    tokenizer = train_tokenizer(TokenizerConfig("bpe", 290), texts)
    (token,) = tokenizer.encode("ghijkl")[-1:]
    assert len(tokenizer.decode([token])) > 3
    task = make_task(replace(LIVELY, block_size=256, vocab_size=290))
    task.tokenizer = tokenizer
    task.configure_model()
    always(task, token)
    spelled = tokenizer.decode([token])
    options: dict[str, Any] = {"max_new_tokens": 3, "temperature": 0.0, "stop": [spelled[2:]]}
    assert task.answer(CONVERSATIONS[:1], **options) == [spelled[:2].strip()]


def always(task: LanguageModeling, token: int) -> None:
    """Make the network write one token, whatever it reads."""
    with torch.no_grad():
        task.network.token_embedding.weight[:] = 0.01
        task.network.token_embedding.weight[token] = 1.0
        for name, weight in task.network.named_parameters():
            if "norm" in name and name.endswith("bias"):
                weight.fill_(1.0)


@pytest.mark.parametrize("is_training", [True, False])
def test_answering_leaves_the_mode_as_it_was(is_training: bool, talker: LanguageModeling) -> None:
    talker.train(is_training)
    talker.answer(CONVERSATIONS, max_new_tokens=2)
    assert talker.training is is_training


def test_nothing_to_answer(talker: LanguageModeling) -> None:
    assert talker.answer([]) == []


def test_conversation_that_is_too_long(talker: LanguageModeling) -> None:
    with pytest.raises(InputError, match="longer than the model's block_size=256; shorten it"):
        talker.answer([[{"role": "user", "content": "x" * 300}]])


# ---- checkpoints ----


def test_checkpoint_needs_nothing_else(make_data: MakeData, tmp_path: Path) -> None:
    task = make_task()
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(task, make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = LanguageModeling.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.gpt == task.gpt
    assert isinstance(loaded.tokenizer, Tokenizer)
    expected, actual = task.state_dict(), loaded.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    texts = {t.generate("the", max_new_tokens=10, seed=0) for t in (task, loaded)}
    assert len(texts) == 1

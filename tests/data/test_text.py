"""TextDataModule alone, without a Trainer: prepared once, split, batched, refused with a reason."""

import gzip
import json
import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.trainer.states import TrainerFn

from lit_gpt_kit.data import base
from lit_gpt_kit.data.loader import EvalLoader, TrainLoader
from lit_gpt_kit.data.text import TextDataModule
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.loss import IGNORE_INDEX
from lit_gpt_kit.tokenization.tokenizer import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig
from tests.benchmarks.memory import measure_peak
from tests.conftest import shared_data

BYTES = TokenizerConfig("byte")
POEM = "the quick brown fox jumps over the lazy dog\n" * 30
BATCH = {"input_ids", "targets"}


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    return write(tmp_path / "poem.txt", POEM)


@pytest.fixture
def make_data(tmp_path: Path, poem: Path) -> Callable[..., TextDataModule]:
    """Builds a data module on the poem, with a cache of the test's own."""

    def make(*sources: Path | str, **changes: Any) -> TextDataModule:
        options = {"tokenizer": BYTES, "block_size": 16, "batch_size": 4, "seed": 0}
        options |= {"cache_dir": str(tmp_path / "cache")} | changes
        return TextDataModule([str(s) for s in sources or (poem,)], **options)

    return make


MakeData = Callable[..., TextDataModule]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done that a cache should save: "encode" and "train", as often as it was."""
    done: list[str] = []
    encode_batch, train = Tokenizer.encode_batch, base.train_tokenizer

    def encode_and_note(self: Tokenizer, texts: Any) -> list[list[int]]:
        done.append("encode")
        return encode_batch(self, texts)

    def train_and_note(config: TokenizerConfig, texts: Any) -> Tokenizer:
        done.append("train")
        return train(config, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", encode_and_note)
    monkeypatch.setattr(base, "train_tokenizer", train_and_note)
    return done


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def ready(data: TextDataModule, stage: str | None = "fit") -> TextDataModule:
    data.prepare_data()
    data.setup(stage)
    return data


def refusal(data: TextDataModule) -> str:
    with pytest.raises(InputError) as caught:
        ready(data)
    return str(caught.value)


def text_of(loader: Any, tokenizer: Tokenizer) -> str:
    """What an EvalLoader has as targets, in order."""
    targets = torch.cat([batch["targets"].flatten() for batch in loader])
    return tokenizer.decode(targets[targets != IGNORE_INDEX].tolist())


def test_batches(make_data: MakeData) -> None:
    data = ready(make_data())
    loader = data.train_dataloader()
    assert isinstance(loader, TrainLoader)
    whole = [*POEM.encode(), 256]
    train = whole[: int(len(whole) * 0.9)]
    assert data.train_stream.read(0, 10_000).tolist() == train
    rows = [row for batch in islice(loader, len(loader)) for row in batch["input_ids"].tolist()]
    assert len(rows) == len(loader) * 4
    assert all(data.tokenizer.decode(row) in POEM for row in rows)
    batch = next(iter(loader))
    assert set(batch) == BATCH
    assert batch["input_ids"].shape == batch["targets"].shape == (4, 16)
    assert torch.equal(batch["input_ids"][:, 1:], batch["targets"][:, :-1])


def test_validation_is_the_end_of_a_single_document(make_data: MakeData) -> None:
    data = ready(make_data(val_fraction=0.25))
    loader = data.val_dataloader()
    assert isinstance(loader, EvalLoader)
    whole = [*POEM.encode(), 256]
    val = whole[int(len(whole) * 0.75) :]
    assert text_of(loader, data.tokenizer) == data.tokenizer.decode(val[1:])
    assert text_of(data.test_dataloader(), data.tokenizer) == data.tokenizer.decode(val[1:])
    assert text_of(data.predict_dataloader(), data.tokenizer) == data.tokenizer.decode(val[1:])


def test_sources_of_their_own(tmp_path: Path, make_data: MakeData) -> None:
    paths = {
        stage: write(tmp_path / f"{stage}.txt", f"all of the {stage} text\n" * 5)
        for stage in ("val", "test", "predict")
    }
    options = {f"{stage}_sources": [str(path)] for stage, path in paths.items()}
    data = ready(make_data(**options), stage=None)
    assert data.train_stream.num_tokens == len(POEM) + 1  # nothing is split off
    loaders = (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
    for path, loader in zip(paths.values(), loaders, strict=True):
        expected = (path.read_text() + "<|endoftext|>")[1:]
        assert text_of(loader, data.tokenizer) == expected


def test_val_sources_serve_for_test_too(tmp_path: Path, make_data: MakeData) -> None:
    val = write(tmp_path / "val.txt", "validate me\n")
    data = ready(make_data(val_sources=[str(val)]))
    assert text_of(data.test_dataloader(), data.tokenizer) == "alidate me\n<|endoftext|>"


def test_without_validation(make_data: MakeData) -> None:
    data = ready(make_data(val_fraction=0.0))
    assert data.val_dataloader() == data.test_dataloader() == data.predict_dataloader() == []
    assert data.train_stream.num_tokens == len(POEM) + 1


def test_documents_are_isolated_on_demand(tmp_path: Path, make_data: MakeData) -> None:
    lines = "".join(json.dumps({"body": f"document {i}"}) + "\n" for i in range(50))
    path = write(tmp_path / "a.jsonl", lines)
    data = ready(make_data(path, text_field="body", isolate_documents=True))
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert set(batch) - {"row"} == BATCH | {"document_ids"}
        ends = batch["input_ids"] == data.tokenizer.end_id
        assert bool(ends.any())
        assert (batch["targets"][ends] == IGNORE_INDEX).all()
    assert text_of(data.val_dataloader(), data.tokenizer).count("<|endoftext|>") == 5


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_the_second_time_costs_nothing(
    make_data: MakeData, work: list[str], capsys: pytest.CaptureFixture[str], kind: Any
) -> None:
    first = ready(make_data(tokenizer=TokenizerConfig(kind), val_sources=None))
    assert sorted(set(work)) == ["encode", "train"]
    assert "tokenising" in capsys.readouterr().err
    work.clear()
    second = ready(make_data(tokenizer=TokenizerConfig(kind)))
    assert work == []
    assert capsys.readouterr().err == ""
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    one, other = (next(iter(data.train_dataloader())) for data in (first, second))
    assert torch.equal(one["input_ids"], other["input_ids"])


def test_what_does_not_change_the_tokens_does_not_change_the_cache(
    make_data: MakeData, work: list[str]
) -> None:
    ready(make_data())
    work.clear()
    ready(make_data(batch_size=2, block_size=8, seed=3, val_fraction=0.5, isolate_documents=True))
    assert work == []


def test_what_changes_the_tokens_changes_the_cache(
    tmp_path: Path, poem: Path, make_data: MakeData, work: list[str]
) -> None:
    def is_made_anew(data: TextDataModule) -> bool:
        work.clear()
        ready(data)
        made_anew = "encode" in work
        work.clear()
        ready(data)
        assert work == []
        return made_anew

    assert is_made_anew(make_data())
    assert not is_made_anew(make_data())
    assert is_made_anew(make_data(tokenizer=TokenizerConfig("char")))
    assert is_made_anew(make_data(tokenizer=TokenizerConfig("bpe", 270)))
    assert is_made_anew(make_data(tokenizer=TokenizerConfig("bpe", 271)))
    assert is_made_anew(make_data(tokenizer=TokenizerConfig("byte", special_tokens=("<end>",))))
    other = write(tmp_path / "other.txt", POEM)
    assert is_made_anew(make_data(other))
    assert is_made_anew(make_data(poem, other))
    write(poem, POEM + "one more line\n")
    assert is_made_anew(make_data())
    os.utime(poem, ns=(1, 1))
    assert is_made_anew(make_data())


def test_a_damaged_cache_is_mended(tmp_path: Path, make_data: MakeData) -> None:
    first = ready(make_data()).train_stream.read(0, 10_000).tolist()
    (tokens,) = (tmp_path / "cache" / "tokens").glob("*/tokens.bin")
    tokens.write_bytes(tokens.read_bytes()[:100])
    assert ready(make_data()).train_stream.read(0, 10_000).tolist() == first


def test_tokenizer_from_a_file(tmp_path: Path, make_data: MakeData) -> None:
    data = ready(make_data(tokenizer=TokenizerConfig("bpe", 280)))
    data.tokenizer.save(tmp_path / "tokenizer.json")
    again = ready(make_data(tokenizer=str(tmp_path / "tokenizer.json")))
    assert again.tokenizer.fingerprint == data.tokenizer.fingerprint
    with pytest.raises(MissingFileError, match=r"tokenizer .*none\.json does not exist"):
        make_data(tokenizer=str(tmp_path / "none.json")).prepare_data()


def test_special_tokens_end_documents(make_data: MakeData) -> None:
    config = TokenizerConfig("char", special_tokens=("<stop>",))
    data = ready(make_data(tokenizer=config))
    assert data.tokenizer.end_token == "<stop>"
    assert data.val_stream.read(data.val_stream.num_tokens - 1, 1) == data.tokenizer.end_id


def test_a_subclass_brings_its_own_tokenizer(
    tmp_path: Path, poem: Path, byte_tokenizer: Tokenizer
) -> None:
    class Mine(TextDataModule):
        def build_tokenizer(self) -> Tokenizer:
            return byte_tokenizer

    data = Mine([str(poem)], block_size=8, cache_dir=str(tmp_path / "cache"))
    assert ready(data).tokenizer is byte_tokenizer


def test_home_is_known(tmp_path: Path, poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    TextDataModule([str(poem)], tokenizer=BYTES).prepare_data()
    assert list((tmp_path / ".cache" / "lit_gpt_kit" / "tokens").glob("*/tokens.bin"))


def first_rows(data: TextDataModule) -> list[int]:
    return next(iter(ready(data).train_dataloader()))["input_ids"].tolist()


def test_seed_decides_the_order(make_data: MakeData) -> None:
    assert first_rows(make_data(seed=1)) == first_rows(make_data(seed=1))
    assert first_rows(make_data(seed=1)) != first_rows(make_data(seed=2))


def test_seed_of_seed_everything(make_data: MakeData) -> None:
    rows = []
    for seed in (5, 6, 5):
        seed_everything(seed)
        torch.rand(3)  # random numbers drawn on the way change nothing
        rows.append(first_rows(make_data(seed=None)))
    assert rows[0] == rows[2] != rows[1]
    assert rows[0] == first_rows(make_data(seed=5))


def test_a_trainer_says_rank_and_step(make_data: MakeData) -> None:
    whole = ready(make_data(batch_size=24)).train_dataloader()
    data = make_data(batch_size=4, block_size=None)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=SimpleNamespace(block_size=16),
        accumulate_grad_batches=3,
        global_step=5,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        distributed_sampler_kwargs={"rank": 1, "num_replicas": 2},
        strategy=SimpleNamespace(broadcast=lambda seed: seed),
    )
    ready(data)
    loader = data.train_dataloader()
    assert (data.block_size, data.batches_per_step) == (16, 3)
    assert len(loader) % 3 == 0
    step = whole.batch(5)["input_ids"]
    mine = torch.cat([step[4:8], step[12:16], step[20:24]])  # rank 1 of 2, three micro-batches
    batches = [batch["input_ids"] for batch in islice(loader, 3)]
    assert torch.equal(torch.cat(batches), mine)
    val = data.val_dataloader()
    assert isinstance(val, EvalLoader)
    assert (val.rank, val.num_ranks) == (1, 2)
    data.trainer.state.fn = TrainerFn.VALIDATING
    assert torch.equal(next(iter(loader))["input_ids"], whole.batch(0)["input_ids"][4:8])
    data.trainer.distributed_sampler_kwargs = None  # type: ignore[misc]
    assert (data.train_dataloader().rank, data.train_dataloader().num_ranks) == (0, 1)


def test_ranks_agree_on_the_seed(make_data: MakeData) -> None:
    data = make_data(seed=None)
    strategy = SimpleNamespace(broadcast=lambda seed: 77)
    fitting = SimpleNamespace(fn=TrainerFn.FITTING)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=strategy, state=fitting, lightning_module=None, accumulate_grad_batches=1
    )
    data.prepare_data()
    data.setup("fit")
    assert data.seed == 77


def test_block_size_without_a_model(make_data: MakeData) -> None:
    assert refusal(make_data(block_size=None)) == (
        "block_size is not given, and there is no model to take it from"
    )


def test_block_size_longer_than_the_corpus(tmp_path: Path, make_data: MakeData) -> None:
    path = write(tmp_path / "short.txt", "x" * 310)
    said = (
        f"block_size=1024 is longer than the corpus (311 tokens to train on in {path}); "
        "lower block_size or add text"
    )
    assert refusal(make_data(path, block_size=1024, val_fraction=0.0)) == said
    assert refusal(make_data(path, block_size=311, val_fraction=0.0)).startswith("block_size=311 ")
    data = ready(make_data(path, block_size=310, val_fraction=0.0))
    assert next(iter(data.train_dataloader()))["targets"][0].tolist() == [120] * 309 + [256]
    make_data(path, block_size=1024, val_fraction=0.5).setup("validate")  # a short row will do


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_val_fraction_that_cannot_be(make_data: MakeData, fraction: float) -> None:
    expected = f"val_fraction={fraction} must be at least 0 and below 1"
    with pytest.raises(InputError, match=re.escape(expected)):
        make_data(val_fraction=fraction)


@pytest.mark.parametrize(("fraction", "left"), [(0.0001, 1), (0.0014, 2)])
def test_val_fraction_that_leaves_nothing(make_data: MakeData, fraction: float, left: int) -> None:
    data = make_data(val_fraction=fraction)
    if left > 1:
        assert ready(data).val_stream.num_tokens == left
        return
    assert refusal(data) == (
        f"val_fraction={fraction} leaves 1 tokens for validation; raise it, add text, or set it "
        "to 0 to train without validation"
    )


def test_batch_size_that_cannot_be(make_data: MakeData) -> None:
    with pytest.raises(InputError, match="batch_size=0 must be at least 1"):
        make_data(batch_size=0)


def test_sources_without_text(tmp_path: Path, make_data: MakeData) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": ""}\n{"text": ""}\n')
    assert refusal(make_data(path)) == "the sources hold no text"
    assert refusal(make_data(path, tokenizer=TokenizerConfig("char"))) == (
        "there is no text to take characters from"
    )


def test_characters_that_only_validation_has(tmp_path: Path, make_data: MakeData) -> None:
    val = write(tmp_path / "val.txt", "déjà vu\n")
    data = make_data(tokenizer=TokenizerConfig("char"), val_sources=[str(val)])
    assert refusal(data).startswith("character 'à' (U+00E0) is not among the 28 characters of")


def test_real_documents(make_data: MakeData) -> None:
    sums = shared_data("gsm8k/test.jsonl.gz")
    with gzip.open(sums) as file:
        documents = [json.loads(line)["question"] for line in file]
    options = {"tokenizer": TokenizerConfig("bpe", 1000), "text_field": "question"}
    data = ready(make_data(sums, val_fraction=0.2, **options))
    val = data.val_stream
    chosen = data.tokenizer.decode(val.read(0, val.num_tokens)).split("<|endoftext|>")[:-1]
    assert len(chosen) == len(documents) // 5
    assert set(chosen) < set(documents)
    assert len(text_of(data.val_dataloader(), data.tokenizer)) > 50_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no VmHWM on this system")
def test_a_large_file_takes_little_memory(tmp_path: Path, tiny_shakespeare: Path) -> None:
    result = measure_peak(tiny_shakespeare, 50_000_000, tmp_path)
    assert result["num_bytes"] >= 50_000_000
    assert result["peak_bytes"] < 925_000_000
    poem = tiny_shakespeare.read_text()
    assert all(row in poem + poem for row in result["texts"])


def test_says_where_the_rows_of_a_step_begin(make_data: MakeData) -> None:
    data = make_data(global_batch_tokens=3 * 4 * 16)
    data.setup("fit")
    loader = data.train_dataloader()
    step = 1
    rows = torch.cat([loader.batch(step * 3 + n)["input_ids"] for n in range(3)])
    starts = data.rows_of_step(step)
    tokens = torch.tensor(data.train_stream.read(0, data.train_stream.num_tokens).astype(int))
    assert torch.equal(rows, torch.stack([tokens[start : start + 16] for start in starts]))
    named = ", ".join(map(str, starts))
    assert data.describe_rows_of_step(step) == (
        f"rows that begin at tokens {named} of {data.sources[0]}"
    )


def test_names_some_rows_of_many(make_data: MakeData) -> None:
    data = make_data(batch_size=40)
    data.setup("fit")
    starts = data.rows_of_step(0)
    assert len(starts) == 40
    named = ", ".join(map(str, starts[:32]))
    assert f"tokens {named} and 8 more of " in data.describe_rows_of_step(0)

"""GenerationMetrics in somebody else's project: their module, their data, a plain Trainer."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
import wandb
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_gpt_kit.callbacks.generation_metrics import GenerationMetrics
from lit_gpt_kit.callbacks.text_metrics import TEXT_METRICS
from lit_gpt_kit.data.examples import GenerationExample
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.parallel import ShardedStrategy
from tests.command import run, write_project
from tests.run_dir import only_run
from tests.tiny import make_trainer

ALL = tuple(TEXT_METRICS)
WORDS = "one two three four five six seven eight nine ten"
QUESTIONS = [f"Say {' '.join(WORDS.split()[i : i + 4])} {i}" for i in range(7)]
SCORES = ["rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match", "token_f1", "final_number"]


class Parrot(LightningModule):
    """Says the last words of the prompt; knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.asked: list[str] = []

    def generate(self, prompt: str, max_new_tokens: int) -> str:
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.rand(3), np.random.rand(3), random.random()
        self.asked.append(prompt)
        return " ".join(prompt.split()[-max_new_tokens:])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert self.training
        loss: Tensor = self.layer(batch).sum() * torch.rand(())
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch).sum(), sync_dist=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Chatter(Parrot):
    """Answers conversations, many at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, dict[str, Any]]] = []

    def answer(self, conversations: list[list[Any]], **options: Any) -> list[str]:
        self.calls.append((len(conversations), options))
        return [" ".join(m["content"] for m in c if m["role"] == "user") for c in conversations]


class Batches(LightningDataModule):
    """Somebody's numbers."""

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(8, 1), batch_size=2)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


class Questions(Batches):
    """Somebody's questions."""

    def generation_examples(self, split: str) -> list[GenerationExample]:
        return [
            GenerationExample(
                ({"role": "system", "content": split}, {"role": "user", "content": question}),
                (question.upper(), " ".join(question.split()[2:])),
            )
            for question in QUESTIONS
        ]


def given(**options: Any) -> GenerationMetrics:
    """A callback with prompts of its own."""
    settings = {"prompts": QUESTIONS, "references": ["one two five 2"] * len(QUESTIONS)}
    return GenerationMetrics(ALL, **{**settings, **options})


def scores_of(trainer: Trainer, split: str) -> dict[str, float]:
    logged = trainer.callback_metrics.items()
    return {k.removeprefix(f"{split}/"): float(v) for k, v in logged if k != f"{split}/loss"}


def expected(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    parts = [metric(answers, references) for metric in TEXT_METRICS.values()]
    return {name: value for part in parts for name, value in part.items()}


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_another_projects_module_and_data(tmp_path: Path) -> None:
    callback = given(max_new_tokens=3, references=["two three 0", *["two five 2"] * 6])
    module = Parrot()
    trainer = make_trainer(tmp_path, 4, callbacks=[callback], val_check_interval=2)
    trainer.fit(module, Batches())
    assert module.asked == QUESTIONS * 2
    answers = [" ".join(question.split()[-3:]) for question in QUESTIONS]
    references = [["two three 0"], *[["two five 2"]] * 6]
    logged = {k: v for k, v in scores_of(trainer, "val").items() if k in SCORES}
    assert list(logged) == SCORES
    assert logged == pytest.approx(expected(answers, references), rel=1e-6)
    bleu = sacrebleu.corpus_bleu(answers, [[texts[0] for texts in references]]).score
    assert logged["bleu"] == pytest.approx(bleu, rel=1e-6)
    names = ["val_step000002.jsonl", "val_step000004.jsonl"]
    assert sorted(path.name for path in (tmp_path / "generations").iterdir()) == names
    rows = read_rows(tmp_path / "generations" / names[-1])
    assert [row["answer"] for row in rows] == answers
    first = {"prompt": QUESTIONS[0], "references": ["two three 0"], "answer": answers[0]}
    assert rows[0] == first


def test_conversations_of_a_data_module_go_in_batches(tmp_path: Path) -> None:
    module = Chatter()
    callback = GenerationMetrics(("exact_match",), batch_size=3, max_new_tokens=5)
    trainer = make_trainer(tmp_path, 1, callbacks=[callback], limit_val_batches=1)
    (scores,) = trainer.validate(module, Questions(), verbose=False)
    assert scores["val/exact_match"] == 100  # normalised, the answer is the first reference
    options = {"max_new_tokens": 5, "temperature": 0.0}
    assert module.calls == [(3, options), (3, options), (1, options)]
    assert module.asked == []
    (row, *_) = read_rows(tmp_path / "generations" / "val_step000000.jsonl")
    assert row["prompt"] == f"system: val\nuser: {QUESTIONS[0]}"
    assert row["references"] == [QUESTIONS[0].upper(), "two three four 0"]


def test_the_test_split_has_its_own_names(tmp_path: Path) -> None:
    callback = GenerationMetrics(("rouge",), max_examples=None, folder=tmp_path / "answers")
    trainer = make_trainer(tmp_path, 1, callbacks=[callback])
    (scores,) = trainer.test(Chatter(), Questions(), verbose=False)
    assert scores == {"test/rouge1": 1, "test/rouge2": 1, "test/rougeL": 1}
    (row, *others) = read_rows(tmp_path / "answers" / "test_step000000.jsonl")
    assert row["prompt"].startswith("system: test\n")
    assert len(others) == 6


def test_examples_are_spread_evenly(tmp_path: Path) -> None:
    module = Parrot()
    trainer = make_trainer(tmp_path, 1, callbacks=[given(max_examples=3)])
    trainer.validate(module, Batches(), verbose=False)
    assert module.asked == [QUESTIONS[0], QUESTIONS[2], QUESTIONS[4]]


def test_training_is_what_it_is_without(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [given()]):
        torch.manual_seed(0)
        module = Parrot()
        trainer = make_trainer(tmp_path, 4, callbacks=callbacks, val_check_interval=1)
        trainer.fit(module, Batches())
        weights.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_sanity_check_asks_nothing(tmp_path: Path) -> None:
    module = Parrot()
    options: dict[str, Any] = {"num_sanity_val_steps": 1, "val_check_interval": 1.0}
    make_trainer(tmp_path, 1, callbacks=[given()], **options).fit(module, Batches())
    assert module.asked == []


def test_every_second_validation_also_after_a_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {"val_check_interval": 1, "enable_checkpointing": True}
    trainer = make_trainer(
        tmp_path, 3, callbacks=[given(every_n_validations=2, max_examples=1)], **options
    )
    trainer.fit(Parrot(), Batches())
    folder = tmp_path / "generations"
    assert [path.name for path in folder.iterdir()] == ["val_step000002.jsonl"]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer = make_trainer(
        tmp_path, 4, callbacks=[given(every_n_validations=2, max_examples=1)], **options
    )
    trainer.fit(Parrot(), Batches(), ckpt_path=tmp_path / "last.ckpt")
    names = ["val_step000002.jsonl", "val_step000004.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_trial_writes_nothing(tmp_path: Path) -> None:
    module = Parrot()
    trainer = make_trainer(tmp_path, 1, callbacks=[given()], fast_dev_run=True)
    trainer.fit(module, Batches())
    assert module.asked
    assert not (tmp_path / "generations").exists()


def test_temperature_goes_to_a_generate_that_takes_it(tmp_path: Path) -> None:
    class Sampler(Parrot):
        def generate(self, prompt: str, max_new_tokens: int, **sampling: Any) -> str:
            return f"{max_new_tokens} {sampling}"

    trainer = make_trainer(tmp_path, 1, callbacks=[given(temperature=0.5, max_new_tokens=9)])
    trainer.validate(Sampler(), Batches(), verbose=False)
    (row, *_) = read_rows(tmp_path / "generations" / "val_step000000.jsonl")
    assert row["answer"] == "9 {'temperature': 0.5}"


def test_wandb_gets_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.finish()  # what another test began
    tables: list[Any] = []
    monkeypatch.setattr(WandbLogger, "log_table", lambda self, *args: tables.append(args))
    logger = WandbLogger(save_dir=tmp_path, settings=wandb.Settings(mode="disabled"))
    trainer = make_trainer(tmp_path, 1, callbacks=[given(max_examples=1)], logger=logger)
    trainer.validate(Parrot(), Batches(), verbose=False)
    row = [QUESTIONS[0], "one two five 2", QUESTIONS[0]]
    assert tables == [("val/generations", ["prompt", "reference", "answer"], [row])]
    wandb.finish()


def test_in_a_run_of_the_command(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    callback = {
        "class_path": "lit_gpt_kit.callbacks.generation_metrics.GenerationMetrics",
        "init_args": {
            "metrics": ["chrf", "exact_match"],
            "max_new_tokens": 4,
            "prompts": ["fox?", "dog?"],
            "references": ["the fox", ["the dog", "a dog"]],
        },
    }
    options = [f"--trainer.callbacks={json.dumps([callback])}", "--model.gpt.block_size=96"]
    result = run(project, "fit", "--config", "tiny.yaml", "--trainer.logger=false", *options)
    assert result.status == 0, result.err
    folder = only_run(project) / "generations"
    assert len(read_rows(folder / "val_step000003.jsonl")) == 2
    (*_, row) = read_rows(folder / "val_step000006.jsonl")
    assert row["references"] == ["the dog", "a dog"]
    assert len(row["answer"].encode()) <= 4 * 3  # a broken byte shows as three


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    found = []
    for devices in (1, 2):
        strategy: Any = "auto"
        if devices == 2:
            strategy = DDPStrategy(process_group_backend="gloo", start_method="spawn")
        trainer = make_trainer(
            tmp_path / str(devices),
            2,
            callbacks=[given(max_new_tokens=4)],
            devices=devices,
            strategy=strategy,
        )
        trainer.validate(Parrot(), Batches(), verbose=False)
        (path,) = (tmp_path / str(devices) / "generations").iterdir()
        scores = {k: v for k, v in scores_of(trainer, "val").items() if k in SCORES}
        found.append((scores, read_rows(path)))
    assert found[0] == found[1]
    assert len(found[0][0]) == len(SCORES)


def complaint_of(module: LightningModule, data: Any, callback: GenerationMetrics) -> str:
    trainer = make_trainer(Path(), 1, callbacks=[callback])
    with pytest.raises(InputError) as caught:
        trainer.validate(module, data, verbose=False)
    return str(caught.value)


def test_wrong_input_gets_one_line() -> None:
    with pytest.raises(InputError, match=r"no metric 'rogue'; did you mean 'rouge'\?"):
        GenerationMetrics(["bleu", "rogue"])
    with pytest.raises(InputError, match="no metric 'x'; known: bleu, chrf, exact_match, final_"):
        GenerationMetrics("x")
    with pytest.raises(InputError, match="2 prompts and 1 references; give one reference, or one"):
        GenerationMetrics(prompts=["a", "b"], references=["c"])
    with pytest.raises(InputError, match="max_examples=0 must be at least 1"):
        GenerationMetrics(max_examples=0)
    assert complaint_of(Parrot(), Batches(), GenerationMetrics()) == (
        "GenerationMetrics has no examples: Batches has no `generation_examples`; give `prompts` "
        "and `references`"
    )
    loader = Batches().val_dataloader()
    assert "no data module has no" in complaint_of(Parrot(), loader, GenerationMetrics())
    empty = Questions()
    empty.generation_examples = lambda split: []  # type: ignore[method-assign]
    assert complaint_of(Parrot(), empty, GenerationMetrics()) == (
        "GenerationMetrics has no examples: the val split of Questions is empty; give it rows, or "
        "leave the callback out"
    )
    without = GenerationMetrics(prompts=["a"], references=[[]])
    assert "example 1 has no reference; leave it out" in complaint_of(Parrot(), Batches(), without)
    dumb = type("Dumb", (Parrot,), {"__getattribute__": _hide_generate})()
    assert "Dumb can neither `answer` nor `generate`" in complaint_of(dumb, Batches(), given())


def test_a_model_that_no_device_holds_whole_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=ShardedStrategy())
    with pytest.raises(InputError, match="GenerationMetrics does not go with ShardedStrategy"):
        given().setup(trainer, LightningModule(), "fit")


def _hide_generate(self: Any, name: str) -> Any:
    if name == "generate":
        raise AttributeError(name)
    return LightningModule.__getattribute__(self, name)

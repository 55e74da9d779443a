"""SequenceClassification: scores of transformers' own heads, losses of torch, labels that stay."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lit_gpt_kit import (
    ClassificationDataModule,
    InputError,
    LoRAConfig,
    SequenceClassification,
    TokenizerConfig,
)
from lit_gpt_kit.tasks.classification import balance
from tests.quantised import FewBits, Quantised
from tests.tasks.conftest import LABELS
from tests.tiny import TINY, make_trainer
from tests.transformers_models import build, save

MakeRows = Callable[..., ClassificationDataModule]
PADDING = 299
"""A token that no byte tokenizer writes."""
SMALL = replace(TINY, block_size=64, init_std=0.3)


class Record(Callback):
    """Keeps the batches of training."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.batches.append(args[1])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


def classifier(**options: Any) -> SequenceClassification:
    torch.manual_seed(0)
    return SequenceClassification(**{"optimizer": sgd, **options})


def built(**options: Any) -> SequenceClassification:
    """A task that is ready, without a Trainer."""
    config = replace(SMALL, vocab_size=300)
    task = classifier(**{"gpt": config, "label_names": LABELS, **options})
    task.configure_model()
    return task.eval()


def padded(labels: list[Any]) -> dict[str, Tensor]:
    """A batch of as many rows of unequal length."""
    torch.manual_seed(1)
    lengths = torch.arange(len(labels)) * 5 % 11 + 1
    ids = torch.randint(256, (len(labels), int(lengths.max())))
    return {"input_ids": ids, "last_token": lengths - 1, "labels": torch.tensor(labels)}


# ---- scores ----


@pytest.mark.parametrize(("family", "shape"), [("llama", "grouped"), ("gpt2", "plain")])
def test_scores_are_those_of_transformers(family: str, shape: str, tmp_path: Path) -> None:
    network = build(family, shape)
    task = classifier(pretrained=str(save(network, tmp_path / "base")), label_names=LABELS)
    task.configure_model()
    assert task.head is not None
    torch.nn.init.normal_(task.head.weight)
    network.config.num_labels = 3
    network.config.pad_token_id = PADDING
    theirs = transformers.AutoModelForSequenceClassification.from_config(network.config).eval()
    theirs.base_model.load_state_dict(network.base_model.state_dict())
    theirs.score.load_state_dict(task.head.state_dict())

    batch = padded([0] * 7)
    is_padding = torch.arange(batch["input_ids"].shape[1]) > batch["last_token"][:, None]
    ids = batch["input_ids"].where(~is_padding, PADDING)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=(~is_padding).long()).logits
        # What stands behind the last token does not matter.
        actual = task.eval()(batch["input_ids"], batch["last_token"])
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


# ---- the loss ----


def one_step(
    task: SequenceClassification, data: ClassificationDataModule, folder: Path, **options: Any
) -> tuple[float, dict[str, Tensor], dict[str, Tensor], list[dict[str, Tensor]]]:
    """Loss, weights before and gradients of one step of SGD, and the batches that it read."""
    record, before = Record(), {}
    trainer = make_trainer(folder, 1, callbacks=[record], **options)

    def remember() -> None:
        before.update({name: p.detach().clone() for name, p in task.named_parameters()})

    task.on_train_start = remember  # type: ignore[method-assign]
    trainer.fit(task, data)
    gradients = {name: before[name] - p.detach() for name, p in task.named_parameters()}
    return float(trainer.callback_metrics["train/loss"]), before, gradients, record.batches


def scores_of_all(task: SequenceClassification, batches: list[dict[str, Tensor]]) -> Tensor:
    return torch.cat([task(batch["input_ids"], batch["last_token"]) for batch in batches])


@pytest.mark.parametrize(
    "weights", [None, {"cat": 0.25, "eel": 3.0}, "balanced"], ids=["plain", "given", "balanced"]
)
def test_loss_is_the_weighted_mean_of_the_whole_step(
    weights: Any, make_rows: MakeRows, tmp_path: Path
) -> None:
    task = classifier(gpt=SMALL, class_weights=weights)
    data = make_rows(tokenizer=TokenizerConfig("byte"), batch_size=3)
    loss, before, gradients, batches = one_step(task, data, tmp_path, accumulate_grad_batches=4)

    task.load_state_dict(before, strict=False)
    labels = torch.cat([batch["labels"] for batch in batches])
    assert labels.shape == (12,)
    counts = [16, 8, 8]  # of the rows to train on
    by_hand = {
        "balanced": [32 / 3 / count for count in counts],
        None: [1.0] * 3,
    }
    weight = torch.tensor([0.25, 1.0, 3.0] if isinstance(weights, dict) else by_hand[weights])
    expected = F.cross_entropy(scores_of_all(task, batches), labels, weight)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    task.zero_grad()
    expected.backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("weights", [None, {"b": 4.0}])
def test_loss_of_several_labels_is_the_mean_of_all_answers(
    weights: Any, make_rows: MakeRows, tmp_path: Path
) -> None:
    rows = [{"text": "x" * (i % 5 + 1), "label": list("abc"[: i % 4])} for i in range(20)]
    path = tmp_path / "several.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = classifier(gpt=SMALL, class_weights=weights)
    data = make_rows(sources=[str(path)], tokenizer=TokenizerConfig("byte"), batch_size=3)
    loss, before, _, batches = one_step(task, data, tmp_path, accumulate_grad_batches=2)
    assert task.is_multi_label
    task.load_state_dict(before, strict=False)
    labels = torch.cat([batch["labels"] for batch in batches]).float()
    weight = None if weights is None else torch.tensor([1.0, 4.0, 1.0])
    with torch.no_grad():
        scores = scores_of_all(task, batches)
        expected = F.binary_cross_entropy_with_logits(scores, labels, pos_weight=weight)
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_rows_that_fill_up_count_nothing(is_multi_label: bool) -> None:
    task = built(is_multi_label=is_multi_label, class_weights={"dog": 3.0})
    labels: list[Any] = [0, 1, 2, 1]
    filler: Any = -100
    if is_multi_label:
        labels, filler = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], [-100] * 3
    some = padded(labels)
    more = padded([*labels, filler, filler])
    more["input_ids"][:4, : some["input_ids"].shape[1]] = some["input_ids"]
    more["last_token"][:4] = some["last_token"]
    for ours, theirs in zip(task.compute_loss(more), task.compute_loss(some), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_step_whose_rows_weigh_nothing_changes_nothing(
    make_rows: MakeRows, tmp_path: Path
) -> None:
    task = classifier(gpt=SMALL, class_weights=dict.fromkeys(LABELS, 0.0))
    data = make_rows(tokenizer=TokenizerConfig("byte"))
    loss, _, gradients, _ = one_step(task, data, tmp_path)
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_validation_loss_is_that_of_all_rows(
    batch_size: int, make_rows: MakeRows, tmp_path: Path
) -> None:
    task = classifier(gpt=SMALL, class_weights={"dog": 5.0})
    data = make_rows(tokenizer=TokenizerConfig("byte"), batch_size=batch_size)
    (scores,) = make_trainer(tmp_path, 1).validate(task, data, verbose=False)
    batches = list(data.val_dataloader())
    labels = torch.cat([batch["labels"] for batch in batches])
    with torch.no_grad():
        logits = scores_of_all(task.eval(), batches)
    real = labels >= 0
    expected = F.cross_entropy(logits[real], labels[real], torch.tensor([1.0, 5.0, 1.0]))
    assert int(real.sum()) == 8
    assert scores == {"val/loss": pytest.approx(float(expected), rel=1e-5)}


def test_balanced_weights_are_one_for_a_row_on_the_average() -> None:
    weights = balance(["a", "b"], [30, 10])
    assert weights["a"] * 30 == weights["b"] * 10
    assert weights["a"] * 30 + weights["b"] * 10 == 40


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"dgo": 2.0}, r"class_weights names 'dgo', which is no label; did you mean 'dog'\?"),
        ({"dog": -1.0}, r"class_weights: -1.0 of 'dog' must be at least 0"),
        ({"dog": float("nan")}, r"class_weights: nan of 'dog' must be at least 0"),
    ],
)
def test_weights_that_cannot_be(weights: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        built(class_weights=weights)


def test_balanced_weights_need_counts(tmp_path: Path) -> None:
    batch = padded([0, 1, 2])
    loader: Any = [batch]
    task = classifier(
        gpt=replace(SMALL, vocab_size=300), label_names=LABELS, class_weights="balanced"
    )
    with pytest.raises(InputError, match="'balanced' needs a data module with label_counts"):
        make_trainer(tmp_path, 1).fit(task, loader)


# ---- what is trained ----


def test_head_of_the_next_token_stays(base: Path, make_rows: MakeRows, tmp_path: Path) -> None:
    task = classifier(pretrained=str(base))
    _, _, gradients, _ = one_step(task, make_rows(), tmp_path)
    changed = {name for name, gradient in gradients.items() if gradient.any()}
    assert "head.weight" in changed
    assert "model.lm_head.weight" not in changed
    assert not task.network.lm_head.weight.requires_grad


def test_head_that_is_the_embedding_learns(tied: Path, make_rows: MakeRows, tmp_path: Path) -> None:
    task = classifier(pretrained=str(tied))
    _, _, gradients, _ = one_step(task, make_rows(), tmp_path)
    assert all(gradient.any() for gradient in gradients.values())


def test_head_is_exact_beside_quantised_layers(
    base: Path, make_rows: MakeRows, tmp_path: Path
) -> None:
    task = classifier(pretrained=str(base), lora=LoRAConfig(rank=2), label_names=LABELS)
    make_trainer(tmp_path, 2, plugins=FewBits()).fit(task, make_rows())
    assert any(isinstance(module, Quantised) for module in task.network.modules())
    assert type(task.head) is torch.nn.modules.linear.Linear
    assert task.head.weight.dtype == torch.float32
    assert task.head.weight.requires_grad


# ---- labels and checkpoints ----


def fitted(
    task: SequenceClassification, data: ClassificationDataModule, folder: Path, steps: int = 2
) -> Path:
    trainer = make_trainer(folder, steps)
    trainer.fit(task, data)
    path = folder / "a.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_checkpoint_needs_nothing_else(make_rows: MakeRows, tmp_path: Path) -> None:
    base = save(build("llama", "multi-head"), tmp_path / "base")
    task = classifier(pretrained=str(base), class_weights="balanced")
    path = fitted(task, make_rows(), tmp_path)
    base.rename(tmp_path / "gone")
    saved = torch.load(path, weights_only=True)["hyper_parameters"]
    assert saved["label_names"] == list(LABELS)
    assert saved["is_multi_label"] is False
    assert saved["pretrained"] is None
    assert saved["class_weights"] == pytest.approx({"cat": 2 / 3, "dog": 4 / 3, "eel": 4 / 3})
    loaded = SequenceClassification.load_from_checkpoint(path)
    assert loaded.label_names == LABELS
    assert loaded.label_weights is not None
    assert task.label_weights is not None
    assert torch.equal(loaded.label_weights, task.label_weights)
    expected, actual = task.state_dict(), loaded.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_loss_after_training_weighs_as_in_training(make_rows: MakeRows, tmp_path: Path) -> None:
    def make() -> SequenceClassification:
        return classifier(gpt=SMALL, class_weights="balanced")

    data = make_rows(tokenizer=TokenizerConfig("byte"))
    trainer = make_trainer(tmp_path, 2, val_check_interval=2)
    trainer.fit(make(), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    expected = float(trainer.callback_metrics["val/loss"])
    (scores,) = make_trainer(tmp_path, 1).validate(
        make(), data, ckpt_path=tmp_path / "a.ckpt", weights_only=True, verbose=False
    )
    assert scores["val/loss"] == pytest.approx(expected, rel=1e-6)


def test_other_labels_are_refused(make_rows: MakeRows, tmp_path: Path) -> None:
    byte = TokenizerConfig("byte")
    path = fitted(classifier(gpt=SMALL), make_rows(tokenizer=byte), tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a", "label": "no"}\n{"text": "b", "label": "yes"}\n' * 5)
    with pytest.raises(InputError, match=r"tells apart cat, dog, eel, the data no, yes; train on"):
        make_trainer(tmp_path, 3).fit(
            classifier(gpt=SMALL),
            make_rows(sources=[str(other)], tokenizer=byte),
            ckpt_path=path,
            weights_only=True,
        )


def test_label_names_of_the_task_say_the_order(make_rows: MakeRows, tmp_path: Path) -> None:
    names = ("eel", "dog", "cat")
    task = classifier(gpt=SMALL, label_names=names)
    data = make_rows(tokenizer=TokenizerConfig("byte"))
    fitted(task, data, tmp_path)
    assert task.label_names == names
    labels = torch.cat([batch["labels"] for batch in data.val_dataloader()])
    assert labels.bincount().tolist() == [2, 2, 4]


def test_label_names_of_the_task_do_not_hide_that_there_are_several(
    make_rows: MakeRows, tmp_path: Path
) -> None:
    path = tmp_path / "several.jsonl"
    path.write_text('{"text": "x", "label": ["a", "b"]}\n{"text": "y", "label": []}\n' * 5)
    task = classifier(gpt=SMALL, label_names=("a", "b"))
    data = make_rows(sources=[str(path)], tokenizer=TokenizerConfig("byte"))
    fitted(task, data, tmp_path)
    assert task.is_multi_label


def test_label_that_training_never_saw(make_rows: MakeRows, tmp_path: Path) -> None:
    byte = TokenizerConfig("byte")
    path = fitted(classifier(gpt=SMALL), make_rows(tokenizer=byte), tmp_path)
    new = tmp_path / "new.jsonl"
    new.write_text('{"text": "a", "label": "cat"}\n{"text": "b", "label": "cats"}\n')
    data = make_rows(test_sources=[str(new)], tokenizer=byte)
    with pytest.raises(InputError, match=r"line 2: label 'cats' was not seen in training; did you"):
        make_trainer(tmp_path, 1).test(
            classifier(gpt=SMALL), data, ckpt_path=path, weights_only=True
        )


def test_unknown_labels_name_the_remedies(tmp_path: Path) -> None:
    task = classifier(gpt=replace(SMALL, vocab_size=300))
    task.configure_model()
    batch = padded([0, 1])
    with pytest.raises(InputError, match="labels are not known; train with a data module"):
        task(batch["input_ids"], batch["last_token"])


# ---- predictions ----


def check_shares(row: dict[str, float], scores: Tensor) -> None:
    assert list(row) == list(LABELS)
    torch.testing.assert_close(torch.tensor(list(row.values())), scores)


def test_predictions_say_the_likeliest_label() -> None:
    task = built()
    batch: dict[str, Any] = padded([0] * 5)
    batch |= {"row": torch.arange(5), "texts": list("abcde")}
    with torch.no_grad():
        columns = task.predict_step(batch, 0)
        expected = task(batch["input_ids"], batch["last_token"]).softmax(-1)
    assert list(columns) == ["row", "text", "label", "probability", "probabilities"]
    assert columns["text"] == list("abcde")
    assert len(set(columns["label"])) > 1
    for number, row in enumerate(expected):
        check_shares(columns["probabilities"][number], row)
        assert columns["label"][number] == LABELS[row.argmax()]
        assert columns["probability"][number] == pytest.approx(float(row.max()))


def test_predictions_of_several_labels_are_those_more_likely_than_not() -> None:
    task = built(is_multi_label=True)
    batch: dict[str, Any] = padded([0] * 5)
    batch |= {"row": torch.arange(5), "texts": list("abcde")}
    with torch.no_grad():
        columns = task.predict_step(batch, 0)
        expected = task(batch["input_ids"], batch["last_token"]).sigmoid()
    assert list(columns) == ["row", "text", "label", "probabilities"]
    assert len({len(labels) for labels in columns["label"]}) > 1
    for number, row in enumerate(expected):
        check_shares(columns["probabilities"][number], row)
        likely = [name for name, p in zip(LABELS, row, strict=True) if p > 0.5]
        assert columns["label"][number] == likely


def test_training_learns_to_tell_apart(base: Path, make_rows: MakeRows, tmp_path: Path) -> None:
    task = classifier(
        pretrained=str(base), optimizer=lambda params: torch.optim.AdamW(params, lr=3e-3)
    )
    trainer = make_trainer(tmp_path, 40, val_check_interval=40, check_val_every_n_epoch=None)
    trainer.fit(task, make_rows())
    assert float(trainer.callback_metrics["val/loss"]) < 0.3  # ln 3 = 1.1 at the start


def test_a_subclass_changes_the_loss(make_rows: MakeRows, tmp_path: Path) -> None:
    class Doubled(SequenceClassification):
        def label_loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            loss, count = super().label_loss(logits, labels)
            return 2 * loss, count

    data = make_rows(tokenizer=TokenizerConfig("byte"))
    losses = []
    for kind in (SequenceClassification, Doubled):
        torch.manual_seed(0)
        task = kind(gpt=SMALL, optimizer=sgd)
        trainer = make_trainer(tmp_path, 1)
        trainer.fit(task, data)
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-6)

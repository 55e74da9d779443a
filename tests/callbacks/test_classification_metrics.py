"""ClassificationMetrics in Trainers: what is logged, drawn and saved, and when."""

import builtins
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from sklearn import metrics
from torch import Tensor

from lit_gpt_kit.callbacks.classification_metrics import ClassificationMetrics
from lit_gpt_kit.errors import InputError
from tests.callbacks.classifier import Linear, Replay, Rows, in_batches, one_of, several_of
from tests.tiny import make_trainer

PICTURES = ["calibration", "confusion", "precision_recall", "roc"]
NUMBERS = {"accuracy", "f1", "auroc", "average_precision", "calibration_error"}


def validate(
    root: Path, rows: Rows, module: LightningModule | None = None, **options: Any
) -> dict[str, float]:
    """What one validation of these logits logs."""
    callback = ClassificationMetrics(**{"plots": False, **options})
    trainer = make_trainer(root, 1, callbacks=[callback])
    (logged,) = trainer.validate(module or Replay(), in_batches(rows, 32), verbose=False)
    return dict(logged)


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("plots/*"))


# ---- a classifier of another project ----


@pytest.fixture
def clouds() -> Rows:
    """Three clouds of points that overlap."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    centers = torch.tensor([[0.0, 2.0], [2.0, 0.0], [-1.0, -1.0]])
    return centers[labels] + torch.randn(300, 2, generator=generator), labels


def test_another_projects_classifier(tmp_path: Path, clouds: Rows) -> None:
    points, labels = clouds
    module, callback = Linear(2, 3), ClassificationMetrics(["red", "green", "blue"])
    best = ModelCheckpoint(tmp_path / "checkpoints", monitor="val/f1", mode="max")
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[callback, best],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (before,) = trainer.validate(module, in_batches(clouds, 16), verbose=False)
    trainer.fit(module, in_batches(clouds, 16), in_batches(clouds, 32))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(logged) == {"val/loss"} | {
        f"val/{name}" for name in NUMBERS | {"f1_red", "f1_green", "f1_blue"}
    }
    assert logged["val/f1"] > before["val/f1"]

    with torch.no_grad():
        logits = module.layer(points)
    decided = logits.argmax(dim=1)
    assert logged["val/accuracy"] == pytest.approx(metrics.accuracy_score(labels, decided))
    each = metrics.f1_score(labels, decided, average=None)
    assert [logged[f"val/f1_{name}"] for name in ("red", "green", "blue")] == pytest.approx(each)
    probabilities = logits.double().softmax(dim=1)
    area = metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert logged["val/auroc"] == pytest.approx(area, abs=1e-4)

    (tested,) = trainer.test(module, in_batches(clouds, 50), verbose=False)
    (again,) = trainer.validate(module, in_batches(clouds, 7), verbose=False)
    for name in NUMBERS:
        assert tested[f"test/{name}"] == pytest.approx(logged[f"val/{name}"], abs=1e-5)
        assert again[f"val/{name}"] == pytest.approx(logged[f"val/{name}"], abs=1e-5)
    both = [f"{split}_{name}.png" for split in ("test", "val") for name in PICTURES]
    assert pictures(tmp_path) == both

    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}
    saved = torch.load(best.best_model_path, weights_only=True)
    assert set(saved["state_dict"]) == {"layer.weight", "layer.bias"}
    assert not [key for key in saved["callbacks"] if "ClassificationMetrics" in key]
    alone = Linear.load_from_checkpoint(
        best.best_model_path, num_inputs=2, num_classes=3, strict=True, weights_only=True
    )
    resumed = make_trainer(tmp_path / "resumed", 80, callbacks=[ClassificationMetrics()])
    resumed.fit(
        alone, in_batches(clouds, 16), in_batches(clouds, 32), ckpt_path=best.best_model_path
    )
    assert resumed.global_step == 80


def test_validations_do_not_add_up(tmp_path: Path) -> None:
    callback = ClassificationMetrics(plots=False)
    trainer = make_trainer(tmp_path, 1, callbacks=[callback])
    trainer.validate(Replay(), in_batches(one_of(3, seed=1), 32), verbose=False)
    (second,) = trainer.validate(Replay(), in_batches(one_of(5, seed=2), 32), verbose=False)
    assert second == pytest.approx(validate(tmp_path, one_of(5, seed=2)))


def test_counted_with_and_without_inference_mode(tmp_path: Path) -> None:
    callback = ClassificationMetrics(plots=False)
    for inference_mode in (True, False, True):
        trainer = make_trainer(tmp_path, 1, callbacks=[callback], inference_mode=inference_mode)
        (logged,) = trainer.validate(Replay(), in_batches(one_of(2), 32), verbose=False)
        assert logged == pytest.approx(validate(tmp_path, one_of(2)))


def test_several_labels(tmp_path: Path) -> None:
    logits, labels = several_of(4)
    logged = validate(tmp_path, (logits, labels), plots=True)
    assert logged["val/accuracy"] == pytest.approx(metrics.accuracy_score(labels, logits > 0))
    assert pictures(tmp_path) == [f"val_{name}.png" for name in PICTURES]


def test_bf16_logits(tmp_path: Path) -> None:
    logits, labels = one_of(3)
    rounded = logits.bfloat16()
    expected = validate(tmp_path, (rounded.float(), labels))
    assert validate(tmp_path, (rounded, labels)) == pytest.approx(expected)


# ---- names ----


def test_names_of_the_module(tmp_path: Path) -> None:
    module: Any = Replay()
    module.label_names = ["world", "sci/tech"]
    logged = validate(tmp_path, one_of(2), module)
    assert {"val/f1_world", "val/f1_sci_tech"} <= set(logged)
    given = validate(tmp_path, one_of(2), module, label_names=("no", "yes"))
    assert {"val/f1_no", "val/f1_yes"} <= set(given)
    module.label_names = None
    assert {"val/f1_0", "val/f1_1"} <= set(validate(tmp_path, one_of(2), module))


def test_names_for_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label_names has 3 names, and the logits have 2 classes"):
        validate(tmp_path, one_of(2), label_names=["a", "b", "c"])
    module: Any = Replay()
    module.label_names = ["a", "b", "c"]
    with pytest.raises(InputError, match=r"Replay\.label_names has 3 names"):
        validate(tmp_path, one_of(2), module)
    assert "val/f1_no" in validate(tmp_path, one_of(2), module, label_names=["no", "yes"])


# ---- what cannot be scored ----


def test_a_step_that_returns_something_else_is_told_what_to_return(tmp_path: Path) -> None:
    class Silent(Replay):
        def validation_step(self, batch: Rows, batch_idx: int) -> None: ...  # type: ignore[override]

    with pytest.raises(InputError, match=r"validation_step returns \(nothing\); return \{'logits'"):
        validate(tmp_path, one_of(2), Silent())


def test_batches_of_other_classes_are_refused(tmp_path: Path) -> None:
    class Changing(Replay):
        def validation_step(self, batch: Rows, batch_idx: int) -> dict[str, Tensor]:
            return {"logits": batch[0][:, : 4 - batch_idx], "labels": batch[1] % 2}

    with pytest.raises(InputError, match="3 classes, one label a row after 4 classes, one label"):
        validate(tmp_path, one_of(4), Changing())


def test_two_dataloaders_are_refused(tmp_path: Path) -> None:
    class Both(Replay):
        def validation_step(
            self, batch: Rows, batch_idx: int, dataloader_idx: int = 0
        ) -> dict[str, Tensor]:
            return super().validation_step(batch, batch_idx)

        test_step = validation_step  # type: ignore[assignment]

    trainer = make_trainer(tmp_path, 1, callbacks=[ClassificationMetrics()])
    loader = in_batches(one_of(2), 32)
    with pytest.raises(InputError, match="scores one validation dataloader, and there are 2"):
        trainer.validate(Both(), [loader, loader])
    with pytest.raises(InputError, match="scores one test dataloader, and there are 2"):
        trainer.test(Both(), [loader, loader])


def test_one_class_alone_is_warned_of_once(tmp_path: Path) -> None:
    logits, labels = one_of(2)
    trainer = make_trainer(tmp_path, 1, callbacks=[ClassificationMetrics()])
    loader = in_batches((logits, torch.ones_like(labels)), 32)
    with pytest.warns(UserWarning, match="one class") as warned:
        (logged,) = trainer.validate(Replay(), loader, verbose=False)
    said = [str(w.message) for w in warned if "class" in str(w.message)]
    assert said == ["no val/auroc and val/average_precision: the rows of val have only one class"]
    assert not {"val/auroc", "val/average_precision"} & set(logged)
    assert not np.isnan(list(logged.values())).any()
    assert pictures(tmp_path) == ["val_calibration.png", "val_confusion.png"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*one class.*")
        trainer.validate(Replay(), loader, verbose=False)


def test_labels_that_no_row_has(tmp_path: Path) -> None:
    logits, labels = several_of(3)
    with pytest.warns(UserWarning, match="have only labels that all or none of them have"):
        logged = validate(tmp_path, (logits, torch.zeros_like(labels)), plots=True)
    assert "val/auroc" not in logged


def test_classes_without_rows_are_named(tmp_path: Path) -> None:
    logits, labels = one_of(9)
    with pytest.warns(UserWarning, match="leave out 7 of 9 classes.*: 2, 3, 4, 5, 6, ...$"):
        logged = validate(tmp_path, (logits, labels % 2))
    assert 0 < logged["val/auroc"] < 1


def test_no_row_with_a_label(tmp_path: Path) -> None:
    logits, labels = one_of(2)
    with pytest.warns(UserWarning, match="no val metrics: no row has a label"):
        logged = validate(tmp_path, (logits, torch.full_like(labels, -100)), plots=True)
    assert logged == {}
    assert pictures(tmp_path) == []


def test_logits_that_are_not_numbers(tmp_path: Path) -> None:
    logits, labels = one_of(2)
    logits[7] = float("nan")
    logged = validate(tmp_path, (logits, labels), plots=True)
    assert set(logged) == {f"val/{name}" for name in NUMBERS}
    assert np.isnan(list(logged.values())).all()
    assert pictures(tmp_path) == []


# ---- when, and pictures ----


def test_wrong_names_are_refused_before_training(tmp_path: Path, clouds: Rows) -> None:
    trainer = make_trainer(
        tmp_path, 1, callbacks=[ClassificationMetrics(["a", "b"])], num_sanity_val_steps=1
    )
    with pytest.raises(InputError, match="label_names has 2 names"):
        trainer.fit(Linear(2, 3), in_batches(clouds, 16), in_batches(clouds, 16))
    assert trainer.global_step == 0


def test_the_sanity_check_logs_and_draws_nothing(tmp_path: Path, clouds: Rows) -> None:
    seen: list[set[str]] = []

    class Watch(Linear):
        def on_train_start(self) -> None:
            seen.append(set(self.trainer.callback_metrics))

    trainer = make_trainer(
        tmp_path,
        1,
        callbacks=[ClassificationMetrics()],
        num_sanity_val_steps=2,
        limit_val_batches=4,
        val_check_interval=100,
        check_val_every_n_epoch=None,
    )
    trainer.fit(Watch(2, 3), in_batches(clouds, 16), in_batches(clouds, 16))
    assert not [name for name in seen[0] if "f1" in name]
    assert pictures(tmp_path) == []


def test_a_trial_run_draws_nothing(tmp_path: Path, clouds: Rows) -> None:
    trainer = make_trainer(tmp_path, 1, callbacks=[ClassificationMetrics()], fast_dev_run=1)
    trainer.fit(Linear(2, 3), in_batches(clouds, 16), in_batches(clouds, 16))
    assert "val/f1" in trainer.callback_metrics
    assert pictures(tmp_path) == []


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    validate(tmp_path / "root", one_of(2), plots=True, folder=str(tmp_path / "elsewhere"))
    assert pictures(tmp_path / "root") == []
    names = pictures(tmp_path / "elsewhere")
    assert names == [f"val_{name}.png" for name in PICTURES]
    first = (tmp_path / "elsewhere" / "plots" / "val_roc.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    validate(tmp_path, one_of(2, seed=5), plots=True, folder=str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "plots" / "val_roc.png").read_bytes() != first


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imports = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")
        return imports(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "lit_gpt_kit.callbacks.classification_plots", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.warns(UserWarning, match=r"pip install 'lit-gpt-kit\[plot\]'"):
        logged = validate(tmp_path, one_of(2), plots=True)
    assert "val/f1" in logged
    assert pictures(tmp_path) == []


class RecordImages(WandbLogger):
    """A WandbLogger that keeps what is logged."""

    save_dir = name = version = "record"

    def __init__(self) -> None:
        self.images: list[tuple[str, str, int | None]] = []
        self.steps: set[int | None] = set()

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        self.images += [(key, Path(image).name, step) for image in images]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if "val/f1" in metrics:
            self.steps.add(step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_graph(self, *args: Any, **kwargs: Any) -> None: ...

    def save(self) -> None: ...

    def finalize(self, status: str) -> None: ...


def test_pictures_go_to_every_wandb_logger(tmp_path: Path) -> None:
    loggers = [RecordImages(), RecordImages()]
    trainer = make_trainer(tmp_path, 1, callbacks=[ClassificationMetrics()], logger=loggers)
    trainer.validate(Replay(), in_batches(one_of(2), 32), verbose=False)
    for logger in loggers:
        assert sorted(logger.images) == [(f"val/{name}", f"val_{name}.png", 0) for name in PICTURES]


def test_pictures_stand_at_the_step_of_their_numbers(tmp_path: Path, clouds: Rows) -> None:
    logger = RecordImages()
    options: dict[str, Any] = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    callbacks = [ClassificationMetrics()]
    trainer = make_trainer(tmp_path, 5, callbacks=callbacks, logger=logger, **options)
    trainer.fit(Linear(2, 3), in_batches(clouds, 16), in_batches(clouds, 100))
    assert {step for _, _, step in logger.images} == logger.steps
    assert len(logger.steps) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_wandb")
def test_pictures_in_a_wandb_run(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    trainer = make_trainer(tmp_path, 1, callbacks=[ClassificationMetrics()], logger=logger)
    trainer.validate(Replay(), in_batches(one_of(2), 32), verbose=False)
    logger.experiment.finish()
    kept = tmp_path.glob("wandb/offline-run-*/files/media/images/val/*.png")
    # NAME_NUMBER_HASH.png
    assert sorted(path.name.rsplit("_", 2)[0] for path in kept) == PICTURES


# ---- two processes ----

SCRIPT = """
import json, sys, torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import IterableDataset, DataLoader
from lit_gpt_kit.callbacks.classification_metrics import ClassificationMetrics
from tests.callbacks.classifier import Linear, one_of

class Part(IterableDataset):
    def __init__(self, starts):
        self.starts = starts
    def __iter__(self):
        rank, batch_size = trainer.global_rank, 25
        logits, labels = one_of(3)
        for start in self.starts[rank]:
            yield logits[start : start + batch_size], labels[start : start + batch_size]

class Replay(Linear):
    def test_step(self, batch, batch_idx):
        return {"logits": batch[0], "labels": batch[1]}

trainer = Trainer(
    accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"),
    default_root_dir=sys.argv[1], logger=False, enable_checkpointing=False,
    enable_progress_bar=False, callbacks=[ClassificationMetrics()], use_distributed_sampler=False,
)
batches = list(range(0, 600, 25))
results = []
for parts in ((batches[:7], batches[7:]), (batches, []), ([], batches)):
    loader = DataLoader(Part(parts), batch_size=None)
    results += trainer.test(Replay(2, 3), loader, verbose=False)
if trainer.is_global_zero:
    print(json.dumps(results))
"""


@pytest.mark.slow
def test_two_processes_count_as_one(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "run.py", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    uneven, first, second = json.loads(result.stdout.strip().splitlines()[-1])
    expected = validate(tmp_path / "alone", one_of(3))
    for logged in (uneven, first, second):
        actual = {name.replace("test/", "val/"): value for name, value in logged.items()}
        assert actual == pytest.approx(expected, abs=1e-6)
    assert pictures(tmp_path) == [f"test_{name}.png" for name in PICTURES]


def test_one_label_that_a_row_has_or_has_not(tmp_path: Path) -> None:
    logits, labels = one_of(2)
    margin = (logits[:, 1] - logits[:, 0])[:, None]
    callback = ClassificationMetrics(label_names=["spam"], plots=False)
    trainer = make_trainer(tmp_path, 1, callbacks=[callback])
    rows = in_batches((margin, labels[:, None]), 32)
    (logged,) = trainer.validate(Replay(), rows, verbose=False)
    assert logged["val/accuracy"] == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)))
    spam = metrics.f1_score(labels, logits.argmax(1))
    assert logged["val/f1_spam"] == pytest.approx(spam)

"""A step that is not finite changes nothing, whatever the optimiser; too many end the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_gpt_kit import LanguageModeling, MuonAdamW, TextDataModule
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.tasks import bad_steps
from lit_gpt_kit.tasks.bad_steps import BadSteps
from tests.command import run_process, write_project
from tests.run_dir import only_run
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]
OPTIMIZERS: dict[str, Any] = {
    "fused AdamW": lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=1e-3, weight_decay=0.1),
    "MuonAdamW": lambda params: MuonAdamW(params, weight_decay=0.1, adamw_weight_decay=0.1),
}
STEPS, BAD = 6, 3


class NotFinite(LanguageModeling):
    """A task whose loss is not finite in the micro-batches that `spoiled` names."""

    spoiled: dict[int, float]
    num_losses = 0

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        nll, num_targets = super().compute_loss(batch)
        if self.training:
            self.num_losses += 1
            nll = nll * self.spoiled.get(self.num_losses, 1.0)
        return nll, num_targets


class WithoutGradient(Callback):
    """Takes the gradient of a step away."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step + 1 == self.step:
            for parameter in pl_module.parameters():
                parameter.grad = torch.zeros_like(parameter)
            pl_module.bad_steps.check = self.drop(pl_module.bad_steps.check)

    def drop(self, inner: Any) -> Any:
        def check(optimizer: Any, step: int, loss: Tensor, norm: Tensor) -> None:
            if step != self.step:
                return inner(optimizer, step, loss, norm)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

        return check


class States(Callback):
    """Weights and optimiser state after each step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.after[trainer.global_step] = state(pl_module)


def state(module: LightningModule) -> dict[str, Tensor]:
    values = {name: value.clone() for name, value in module.state_dict().items()}
    for index, moments in module.trainer.optimizers[0].state_dict()["state"].items():
        values |= {f"{name} {index}": torch.as_tensor(v).clone() for name, v in moments.items()}
    return values


def spoil(spoiled: dict[int, float], optimizer: Any = None, **options: Any) -> NotFinite:
    task = make_task(TINY, optimizer, **options)
    task.__class__ = NotFinite
    assert isinstance(task, NotFinite)
    task.spoiled = spoiled
    return task


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


# ---- one bad step ----


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_changes_nothing_and_the_run_goes_on(
    name: str, accumulate: int, clip: float | None, make_data: MakeData, tmp_path: Path
) -> None:
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    states = States()
    task = spoil({BAD * accumulate: float("nan")}, OPTIMIZERS[name])
    trainer = make_trainer(tmp_path, STEPS, callbacks=[states], **options)
    with pytest.warns(UserWarning, match=f"step {BAD} is passed over, weights and optimiser stay"):
        trainer.fit(task, make_data())
    assert trainer.global_step == STEPS
    assert_same(states.after[BAD], states.after[BAD - 1])
    assert not torch.equal(
        states.after[BAD + 1]["model.token_embedding.weight"],
        states.after[BAD]["model.token_embedding.weight"],
    )

    other = make_task(TINY, OPTIMIZERS[name])
    trainer = make_trainer(tmp_path, STEPS, callbacks=[WithoutGradient(BAD)], **options)
    trainer.fit(other, make_data())
    assert_same(states.after[STEPS], state(other))


def test_an_infinite_gradient_is_bad_though_its_loss_is_finite(
    make_data: MakeData, tmp_path: Path
) -> None:
    class Spoil(Callback):
        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.global_step == 1:
                next(pl_module.parameters()).grad[0, 0] = float("inf")  # type: ignore[index]

    states = States()
    with pytest.warns(UserWarning, match=r"stay: gradient norm inf$"):
        make_trainer(tmp_path, 3, callbacks=[Spoil(), states]).fit(make_task(), make_data())
    assert_same(states.after[2], states.after[1])


def test_says_what_was_not_finite(make_data: MakeData, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^step 2 .* stay: loss nan and gradient norm nan$"):
        make_trainer(tmp_path, 2).fit(spoil({2: float("nan")}), make_data())


def test_validation_is_not_poisoned(make_data: MakeData, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 2, val_check_interval=2, check_val_every_n_epoch=None)
    trainer.fit(spoil({2: float("nan")}), make_data())
    assert 4.0 < float(trainer.callback_metrics["val/loss"]) < 6.0
    assert torch.isnan(trainer.callback_metrics["train/loss"])


# ---- on the device ----


@pytest.mark.parametrize("name", ["fused AdamW", "MuonAdamW"])
def test_an_optimiser_that_is_told_on_the_device_passes_over_the_step(
    name: str, make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_steps, "reading_waits", lambda values: True)
    states = States()
    task = spoil({BAD: float("nan")}, OPTIMIZERS[name])
    with pytest.warns(UserWarning, match=f"step {BAD} is passed over"):
        make_trainer(tmp_path, STEPS, callbacks=[states]).fit(task, make_data())
    assert_same(states.after[BAD], states.after[BAD - 1])

    monkeypatch.undo()
    on_host = spoil({BAD: float("nan")}, OPTIMIZERS[name])
    make_trainer(tmp_path, STEPS).fit(on_host, make_data())
    assert_same(states.after[STEPS], state(on_host))


def test_the_last_step_is_heard_of_at_the_end(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_steps, "reading_waits", lambda values: True)
    with pytest.warns(UserWarning, match="step 3 is passed over"):
        make_trainer(tmp_path, 3).fit(spoil({3: float("nan")}), make_data())


def test_momentum_of_the_first_step_is_not_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch's fused SGD would keep uninitialised memory as its momentum.
    monkeypatch.setattr(bad_steps, "reading_waits", lambda values: True)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, fused=True)
    checks = BadSteps()
    for step, gradient in enumerate((float("nan"), 1.0, float("nan"), 1.0), start=1):
        weight.grad = torch.full((3,), gradient)
        checks.check(optimizer, step, weight.grad.sum(), weight.grad.norm())
        optimizer.step()
    # 1 - 1 of the second step, - (0.9 + 1) of the fourth.
    assert weight.tolist() == pytest.approx([-1.9] * 3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fused AdamW", "MuonAdamW"])
def test_on_a_gpu(name: str, make_data: MakeData, tmp_path: Path) -> None:
    states = States()
    task = spoil({BAD: float("nan")}, OPTIMIZERS[name])
    with pytest.warns(UserWarning, match=f"step {BAD} is passed over"):
        make_trainer(tmp_path, STEPS, accelerator="gpu", callbacks=[states]).fit(task, make_data())
    assert_same(states.after[BAD], states.after[BAD - 1])


# ---- too many ----


def always() -> dict[int, float]:
    return dict.fromkeys(range(3, 100), float("nan"))


class SpoilGradients(Callback):
    """Makes gradients infinite from step 3 on, whose losses are finite."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step >= 2:
            next(pl_module.parameters()).grad[0, 0] = float("inf")  # type: ignore[index]


def test_stops_after_too_many_in_a_row(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    states = States()
    trainer = make_trainer(tmp_path, 20, callbacks=[SpoilGradients(), states])
    with pytest.raises(InputError) as caught:
        trainer.fit(make_task(max_bad_steps=4), data)
    rows = ", ".join(map(str, data.rows_of_step(5)))
    path = tmp_path / "checkpoints" / "before-bad-steps.ckpt"
    where = f"rows that begin at tokens {rows} of {data.sources[0]}"
    assert str(caught.value) == (
        f"4 steps in a row were not finite (step 6: gradient norm inf, {where}); "
        f"{path} holds the weights from before them: lower the learning rate, clip "
        "(trainer.gradient_clip_val), or mend the rows"
    )
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 6
    for name, value in saved["state_dict"].items():
        assert torch.equal(value, states.after[2][name])


@pytest.mark.parametrize("earlier", [(), ("best.ckpt", "last.ckpt")])
def test_says_that_the_weights_were_ruined_before(
    earlier: tuple[str, ...], make_data: MakeData, tmp_path: Path
) -> None:
    """By the one step that was finite; every loss after it is not, whatever the rows."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in earlier:
        (folder / name).touch()
    task = make_task(
        TINY, lambda params: torch.optim.AdamW(params, lr=1e25, fused=True), max_bad_steps=4
    )
    with pytest.raises(InputError) as caught:
        make_trainer(tmp_path, 20).fit(task, make_data())
    assert "4 steps in a row were not finite (step " in str(caught.value)
    start = f"go on from {folder}/best.ckpt or {folder}/last.ckpt" if earlier else "start anew"
    assert str(caught.value).endswith(
        "; no loss was, on any rows, so that most likely the weights were ruined before; "
        f"{folder}/before-bad-steps.ckpt holds those: {start}, and lower the learning rate, clip "
        "(trainer.gradient_clip_val), or mend the rows"
    )


def test_a_run_that_stopped_goes_on_behind_the_bad_steps(
    make_data: MakeData, tmp_path: Path
) -> None:
    spoiled = dict.fromkeys(range(3, 7), float("nan"))
    with pytest.raises(InputError):
        make_trainer(tmp_path, 10).fit(spoil(spoiled, max_bad_steps=4), make_data())
    task = make_task()
    path = tmp_path / "checkpoints" / "before-bad-steps.ckpt"
    trainer = make_trainer(tmp_path, 10)
    trainer.fit(task, make_data(), ckpt_path=path, weights_only=True)
    assert trainer.global_step == 10

    through = spoil(spoiled)
    make_trainer(tmp_path, 10).fit(through, make_data())
    assert_same(state(task), state(through))


def test_a_run_that_is_continued_goes_on_counting(make_data: MakeData, tmp_path: Path) -> None:
    spoiled = dict.fromkeys(range(3, 8), float("nan"))
    trainer = make_trainer(tmp_path, 5)
    trainer.fit(spoil(spoiled, max_bad_steps=4), make_data())
    path = tmp_path / "five.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["lit_gpt_kit"]
    assert (saved["num_bad_steps"], saved["num_bad_losses"]) == (3, 3)
    with pytest.raises(InputError, match=r"^4 steps .* \(step 6: .* weights were ruined before"):
        make_trainer(tmp_path, 10).fit(
            spoil({1: float("nan")}, max_bad_steps=4),  # its first loss is step 6's
            make_data(),
            ckpt_path=path,
            weights_only=True,
        )


def test_a_good_step_between_counts_anew(make_data: MakeData, tmp_path: Path) -> None:
    spoiled = {step: float("nan") for step in range(1, 9) if step % 3}
    trainer = make_trainer(tmp_path, 9)
    trainer.fit(spoil(spoiled, max_bad_steps=3), make_data())
    assert trainer.global_step == 9


def test_zero_never_stops(make_data: MakeData, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 15)
    trainer.fit(spoil(always(), max_bad_steps=0), make_data())
    assert trainer.global_step == 15


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(InputError, match="max_bad_steps=-1 must be at least 0"):
        make_task(max_bad_steps=-1)


SPOILED = """\
from lit_gpt_kit import LanguageModeling

class NotFinite(LanguageModeling):
    def compute_loss(self, batch):
        nll, num_targets = super().compute_loss(batch)
        is_spoiled = self.training and self.global_rank == 1 and self.global_step >= 3
        return nll * float("nan") if is_spoiled else nll, num_targets
"""


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_stops_all(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    (project / "spoiled.py").write_text(SPOILED)
    config = (project / "tiny.yaml").read_text().replace("lit_gpt_kit.Lang", "spoiled.Lang")
    (project / "tiny.yaml").write_text(config.replace("LanguageModeling", "NotFinite"))
    paths = f"{project}:{Path(__file__).parents[2]}"
    flags = ("--trainer.max_steps=20", "--model.max_bad_steps=2", "--trainer.devices=2")
    strategy = "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy"
    gloo = "--trainer.strategy.process_group_backend=gloo"
    fit = ("fit", "--config", "tiny.yaml", *flags, strategy, gloo)
    result = run_process(project, *fit, env={"PYTHONPATH": paths})
    assert result.status == 2, result.err
    (line,) = {line for line in result.err.splitlines() if line.startswith("lit-gpt: ")}
    assert "2 steps in a row were not finite (step 5: loss nan and gradient norm nan, rows" in line
    assert len(line.split("tokens ")[1].split(" of input.txt")[0].split(",")) == 8  # of both ranks
    checkpoint = only_run(project) / "checkpoints" / "before-bad-steps.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 5
    assert all(bool(w.isfinite().all()) for w in saved["state_dict"].values())

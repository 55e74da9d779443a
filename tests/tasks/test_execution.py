"""Training compiled, or with activations made twice: the run of the plain way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_gpt_kit import GPTConfig, LoRAConfig, TextDataModule
from lit_gpt_kit.model.execution import ExecutionConfig
from tests.command import run, run_process, write_project
from tests.tiny import TINY, make_task, make_trainer

MakeData = Callable[..., TextDataModule]


def weights_after(folder: Path, data: TextDataModule, **options: Any) -> dict[str, torch.Tensor]:
    pretrained = options.get("pretrained")
    shape = GPTConfig() if pretrained else TINY
    task = make_task(replace(shape, dropout=0.2), **options)
    precision = "bf16-mixed" if pretrained else "32-true"
    make_trainer(folder, 4, accumulate_grad_batches=2, precision=precision).fit(task, data)
    return dict(task.state_dict())


@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=2, dropout=0.1)])
def test_activations_made_twice_train_the_same_weights(
    kind: Any, lora: LoRAConfig | None, make_data: MakeData, base: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {} if lora is None else {"lora": lora, "pretrained": str(base)}
    data: dict[str, Any] = {"tokenizer": None} if lora else {}
    expected = weights_after(tmp_path, make_data(**data), **options)
    execution = ExecutionConfig(activation_checkpointing=kind)
    actual = weights_after(tmp_path, make_data(**data), execution=execution, **options)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_nothing_is_compiled_or_made_twice_but_in_training(
    make_data: MakeData, tmp_path: Path
) -> None:
    task = make_task(execution=ExecutionConfig(True, "full"))
    make_trainer(tmp_path, 1).validate(task, make_data(), verbose=False)
    assert task.network.run_block.__name__ == "run_once"
    assert all(block._compiled_call_impl is None for block in task.network.blocks)


def test_compile_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no g++")

    monkeypatch.setattr(torch, "compile", lambda function: fail)
    write_project(tmp_path)
    refused = run(tmp_path, "fit", "--config", "tiny.yaml", "--model.execution.compile=true")
    assert refused.complaint == (
        "execution.compile=true needs a C++ compiler (g++), and none that works is here; install "
        "it, or leave compile out"
    )
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.slow
def test_a_compiled_run_goes_on_plain(tmp_path: Path) -> None:
    write_project(tmp_path)
    quiet = ("--trainer.logger=false", "--trainer.limit_val_batches=0")
    fit = ("fit", "--config", "tiny.yaml", *quiet, "--run_dir")
    arguments = (*fit, "run", "--trainer.max_steps=3", "--model.execution.compile=true")
    compiled = run_process(tmp_path, *arguments)
    assert compiled.status == 0, compiled.err
    assert run(tmp_path, *fit, "run", "--ckpt_path=last").status == 0
    assert run(tmp_path, *fit, "plain").status == 0
    ends = [
        torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in ("run", "plain")
    ]
    assert [end["global_step"] for end in ends] == [6, 6]
    torch.testing.assert_close(ends[0]["state_dict"], ends[1]["state_dict"], rtol=1e-3, atol=1e-4)

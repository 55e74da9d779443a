"""`precision: auto`, and bf16 where there is none; what a machine has is pretended."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins import HalfPrecision, TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy

from lit_gpt_kit.cli.precision import PrecisionTrainer, check_precision, choose_precision
from lit_gpt_kit.errors import InputError
from tests.command import run
from tests.run_dir import only_run

FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps=1", "--trainer.logger=false")


def pretend_cpu(monkeypatch: pytest.MonkeyPatch, **has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")

    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or has_bf16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"avx512_bf16": True}, ("bf16-mixed", "this processor has AVX-512 bf16")),
        ({"avx512_bf16": True, "amx_bf16": True}, ("bf16-mixed", "this processor has AMX bf16")),
        ({"avx512_f": True, "avx512_bf16": False}, ("32-true", "this processor has no bf16")),
    ],
)
def test_choice_for_a_cpu(
    has: dict[str, bool], expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cpu(monkeypatch, **has)
    assert choose_precision("cpu") == expected


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
@pytest.mark.parametrize(("has_bf16", "name"), [(True, "bf16-mixed"), (False, "32-true")])
def test_choice_for_a_gpu_counts_no_emulation(
    accelerator: str, has_bf16: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, has_bf16)
    reason = "the Tesla T4 has bf16" if has_bf16 else "the Tesla T4 has no bf16"
    assert choose_precision(accelerator) == (name, reason)


def test_a_cpu_beside_a_gpu_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, has_bf16=False)
    pretend_cpu(monkeypatch, amx_bf16=True)
    assert choose_precision("cpu")[0] == "bf16-mixed"
    check_precision("bf16-mixed", "cpu")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "bf16"])
def test_gpu_without_bf16(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, has_bf16=False)
    with pytest.raises(InputError) as error:
        check_precision(precision, "gpu")
    assert str(error.value) == (
        f"precision={precision} needs a GPU with bf16, which the Tesla T4 is not; use 16-mixed, "
        "32-true or auto"
    )
    check_precision("16-mixed", "gpu")


def test_cpu_without_bf16_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cpu(monkeypatch)
    with pytest.warns(UserWarning, match="precision=bf16-mixed is slow on this processor"):
        check_precision("bf16-mixed", "cpu")


@pytest.mark.parametrize(("has", "name"), [(True, "bf16-mixed"), (False, "32-true")])
def test_trainer_of_its_own(has: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cpu(monkeypatch, avx512_bf16=has)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    assert PrecisionTrainer(precision="auto", accelerator="cpu", **options).precision == name
    assert PrecisionTrainer(accelerator=CPUAccelerator(), **options).precision == "32-true"


def test_a_plugin_or_strategy_that_brings_one_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_cpu(monkeypatch, avx512_bf16=True)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    for given in (
        {"plugins": [HalfPrecision("bf16-true")]},
        {"plugins": HalfPrecision("bf16-true")},
        {"strategy": SingleDeviceStrategy("cpu", precision_plugin=HalfPrecision("bf16-true"))},
    ):
        trainer = PrecisionTrainer(precision="auto", accelerator="cpu", **given, **options)
        assert trainer.precision == "bf16-true"
    io = TorchCheckpointIO()
    trainer = PrecisionTrainer(precision="auto", accelerator="cpu", plugins=[io], **options)
    assert trainer.precision == "bf16-mixed"


def test_a_plugin_that_is_configured_is_said_and_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cpu(monkeypatch, avx512_bf16=True)
    plugin = (
        "[{class_path: lightning.pytorch.plugins.HalfPrecision, init_args: {precision: bf16-true}}]"
    )
    result = run(project, *FIT, "--trainer.precision=auto", f"--trainer.plugins={plugin}")
    assert result.status == 0, result.err
    assert result.out.splitlines()[0] == "precision: that of the plugin"
    assert "bf16-true on cpu" in result.out
    config = yaml.safe_load((only_run(project) / "config.yaml").read_text())
    assert config["trainer"]["precision"] is None


def test_the_choice_is_said_and_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cpu(monkeypatch, avx512_bf16=True)
    result = run(project, *FIT, "--trainer.precision=auto")
    assert result.status == 0, result.err
    assert result.out.splitlines()[0] == "precision: bf16-mixed, this processor has AVX-512 bf16"
    assert "bf16-mixed on cpu" in result.out
    config = yaml.safe_load((only_run(project) / "config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"


def test_bf16_where_there_is_none_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, has_bf16=False)
    flags = ("--trainer.precision=bf16-mixed", "--trainer.accelerator=gpu")
    complaint = run(project, *FIT, *flags).complaint
    assert complaint.startswith("precision=bf16-mixed needs a GPU with bf16, which the Tesla T4 is")
    assert not list(project.glob("runs/*/*"))


def test_a_precision_that_does_not_exist(project: Path) -> None:
    complaint = run(project, *FIT, "--trainer.precision=fp9").complaint
    assert "trainer.precision" in complaint
    assert "auto" in complaint

"""Names of drivers, and figures of data sheets."""

import os

import pytest

from lit_gpt_kit.devices import DEVICES, device_of_driver, find_device
from lit_gpt_kit.errors import InputError


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("AMD Instinct MI300X OAM", "mi300x"),
    ],
)
def test_a_driver_names_its_device(driver: str, name: str) -> None:
    assert device_of_driver(driver) is DEVICES[name]


@pytest.mark.parametrize(
    "driver",
    [
        "NVIDIA L40S",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H800",
        "Tesla T4",
        "",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
    ],
)
def test_a_device_of_another_name_is_not_taken_for_one(driver: str) -> None:
    assert device_of_driver(driver) is None


def test_peaks_are_dense() -> None:
    # NVIDIA's sheets print 1,979 TFLOP/s for bfloat16 on an H100 SXM, "with sparsity".
    assert find_device("H100").peak("bf16-mixed") == pytest.approx(1979e12 / 2, rel=1e-3)
    assert find_device("l4").peak("bf16-true") == pytest.approx(242e12 / 2, rel=1e-3)
    assert find_device("a100").peak("32-true") == 19.5e12
    assert find_device("a100").peak("64-true") is None


def test_this_processor_is_measured() -> None:
    cpu = find_device("cpu")
    assert 1e8 < cpu.peak_fp32 < 1e14
    assert 1e8 < cpu.peak_bf16 < 1e15
    assert cpu.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cpu.usable_bytes == pytest.approx(0.6 * cpu.memory_bytes)
    assert find_device("a100").usable_bytes == pytest.approx(0.92 * 80 * 2**30)


def test_an_unknown_device_is_refused_with_those_known() -> None:
    with pytest.raises(
        InputError, match="--device v100 is not known; known: h200, h100, h100-pcie"
    ):
        find_device("v100")

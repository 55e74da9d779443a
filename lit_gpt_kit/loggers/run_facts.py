"""What a run was made of beside its configuration: code, packages, machine; kept in run.json."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "lit-gpt-kit",
    "torch",
    "lightning",
    "torchmetrics",
    "tokenizers",
    "wandb",
    "jsonargparse",
    "safetensors",
    "numpy",
)
GIT_SECONDS = 1.0


def now() -> str:
    """The time in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def collect_facts() -> dict[str, Any]:
    """Versions, git commit and hardware, as primitives; some milliseconds, and no network."""
    return {"versions": find_versions(), "git": find_commit(), "hardware": find_hardware()}


def find_versions() -> dict[str, str]:
    """Package -> version, of those that decide what a run computes, and of Python."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # ours, where it is on the path and not installed
            continue
    return versions


def find_commit(folder: Path | None = None) -> dict[str, Any] | None:
    """The git commit that a folder is at, and whether a tracked file is changed.

    Args:
        folder: by default the one that the person runs in.

    Returns:
        None outside of a repository, without git, and where git takes longer than a second.
    """
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch"]
    try:
        done = subprocess.run(
            [*command, "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    head = next((line for line in lines if line.startswith("# branch.oid ")), "")
    commit = head.removeprefix("# branch.oid ")
    if not commit or commit == "(initial)":
        return None
    return {"commit": commit, "is_dirty": any(not line.startswith("#") for line in lines)}


def find_hardware() -> dict[str, Any]:
    """Names, counts and memory of processors and GPUs."""
    hardware: dict[str, Any] = {
        "host": platform.node(),
        "cpu": _cpu_name(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "num_gpus": torch.cuda.device_count(),
    }
    if torch.cuda.is_available():
        devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        hardware["gpus"] = [
            {"name": device.name, "memory_bytes": device.total_memory} for device in devices
        ]
    return hardware


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

"""Shared by all tests: shape annotations are executed, real data is found or skipped by name."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Executes the shapes in the signatures of the numeric rooms; must run before they are imported.
install_import_hook(
    ["lit_gpt_kit.model", "lit_gpt_kit.generation", "lit_gpt_kit.optim"], "beartype.beartype"
)

# A shell that starts the tests in the background makes them, and every command they start, deaf to
# Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tiny matrices are slower on two threads, and far slower where others use the cores too.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def shared_data(name: str) -> Path:
    """The path of real data kept beside the checkout; skips the test where it is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"real data {name} is not beside this checkout (looked in {SHARED_DATA})")
    return path


@pytest.fixture
def fresh_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B as a new process finds it: it reads its mode once, and keeps the run of another test."""
    import wandb

    wandb.finish()
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.finish()
    wandb.teardown()


@pytest.fixture
def tiny_shakespeare() -> Path:
    return shared_data("tiny_shakespeare/input.txt")

"""Read a weight at a time, a model is the one that is loaded at once."""

from pathlib import Path

import pytest
import torch

from lit_gpt_kit.checkpoints.load import load_model
from lit_gpt_kit.checkpoints.on_demand import open_model
from tests.transformers_models import SHAPES, build, save

# One of each family, and layers that are laid out otherwise there.
CASES = [(family, next(iter(shapes))) for family, shapes in SHAPES.items()]


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_weights_of_other_families(family: str, variant: str, tmp_path: Path) -> None:
    folder = save(build(family, variant), tmp_path / "model")
    expected, tokenizer = load_model(folder)
    opened = open_model(folder)
    assert opened.tokenizer.fingerprint == tokenizer.fingerprint
    assert opened.model.config == expected.config
    for name, parameter in opened.model.named_parameters():
        assert parameter.is_meta
        room = torch.empty(parameter.shape)
        opened.fill(name, room)
        assert torch.equal(room, expected.get_parameter(name)), name

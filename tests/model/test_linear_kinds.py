"""A precision plugin's own linear layers, in the place of torch's while a network is configured."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules.linear import Linear

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.head import Head
from lit_gpt_kit.model.linear_kinds import plain_layers
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora, lora_layers, merge_lora
from tests.quantised import FewBits, Quantised

BuildGPT = Callable[..., GPT]
IDS = torch.randint(17, (2, 9), generator=torch.Generator().manual_seed(0))


def stir(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("targets", [("blocks",), ("attention.q", "mlp.down")])
def test_frozen_layers_take_the_kind(random_gpt: BuildGPT, targets: tuple[str, ...]) -> None:
    model = random_gpt(position="rotary", tie_embeddings=True)
    with torch.no_grad():
        before = model(IDS)
    with FewBits().module_init_context():
        apply_lora(model, LoRAConfig(targets=targets))
    kinds = [type(module) for module in model.modules() if isinstance(module, Linear)]
    assert set(kinds) == {Quantised, Head}
    assert kinds.count(Quantised) == 2 * 4
    assert model.lm_head.weight is model.token_embedding.weight
    assert model.dtype == torch.bfloat16
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert len(trained) == sum(1 + len(layer.b) for layer in lora_layers(model).values())
    after = model(IDS)
    torch.testing.assert_close(after.float(), before, rtol=0, atol=0.1 * before.std().item())
    stir(model)
    model(IDS).float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in trained)


def test_what_was_learned_goes_to_the_weights_as_they_were(random_gpt: BuildGPT) -> None:
    model, plain = random_gpt(), random_gpt()
    plain.load_state_dict(model.state_dict())
    with FewBits().module_init_context():
        apply_lora(model, LoRAConfig())
    stir(model)
    with pytest.raises(InputError, match=r"the frozen weights are quantised \(Quantised\)"):
        merge_lora(model)
    apply_lora(plain, LoRAConfig()).load_state_dict(
        {name: p for name, p in model.named_parameters() if p.requires_grad}, strict=False
    )
    expected = model(IDS).float()
    close = {"rtol": 0, "atol": 0.1 * expected.std().item()}
    torch.testing.assert_close(merge_lora(plain)(IDS), expected, **close)


def test_dora_needs_the_weights(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    with FewBits().module_init_context(), pytest.raises(InputError, match="train without use_dora"):
        apply_lora(model, LoRAConfig(use_dora=True))


def test_networks_are_plain_while_they_are_loaded(random_gpt: BuildGPT) -> None:
    with FewBits().module_init_context():
        with plain_layers():
            model = random_gpt()
        assert nn.Linear is Quantised
    assert nn.Linear is Linear
    kinds = {type(module) for module in model.modules() if isinstance(module, Linear)}
    assert kinds == {Linear, Head}

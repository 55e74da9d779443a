"""FlexAttention's blocks against a plain mask; gradients on a GPU alone, where torch has them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_gpt_kit.model import gpt as gpt_module
from lit_gpt_kit.model.flex import attend, block_mask, has_flex
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.view import view_row

SEQ = 37
CPU = torch.device("cpu")
DOCUMENTS = torch.stack([torch.arange(SEQ) // 9, (torch.arange(SEQ) > 20).long()])
RULES = [(None, DOCUMENTS), (5, None), (5, DOCUMENTS)]


@pytest.mark.parametrize(("window", "document_ids"), RULES)
def test_sees_what_a_mask_shows(window: int | None, document_ids: Tensor | None) -> None:
    q, k, v = torch.randn(2, 4, SEQ, 8), torch.randn(2, 2, SEQ, 8), torch.randn(2, 2, SEQ, 8)
    mask = view_row(SEQ, window, document_ids, CPU).mask
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    blocks = block_mask(SEQ, window, document_ids, CPU)
    torch.testing.assert_close(attend(q, k, v, blocks, scale=0.3), expected)


def test_a_network_that_uses_it(
    random_gpt: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_gpt(
        position="rotary", attention_pattern=("window", "full"), sliding_window=4, num_kv_heads=2
    )
    ids = torch.randint(17, (2, 16))
    documents = (torch.arange(16) // 7).expand(2, 16)
    with torch.no_grad():
        expected = model(ids, documents)
        monkeypatch.setattr(gpt_module, "has_flex", lambda device: True)
        views = model._view("window", torch.arange(16), 16, documents, None, [])
        assert views.mask is None
        assert views.blocks is not None
        torch.testing.assert_close(model(ids, documents), expected)


def test_not_where_it_would_be_wrong(
    random_gpt: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt_module, "has_flex", lambda device: True)
    assert random_gpt()._can_use_flex(CPU)
    assert random_gpt().train()._can_use_flex(CPU)
    assert random_gpt(dropout=0.1)._can_use_flex(CPU)
    assert not random_gpt(dropout=0.1).train()._can_use_flex(CPU)
    assert not random_gpt(attention_softcap=5.0)._can_use_flex(CPU)


def test_no_processor_has_it() -> None:
    assert not has_flex(CPU)


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "document_ids"), RULES)
def test_gradients_on_a_gpu(window: int | None, document_ids: Tensor | None) -> None:
    device = torch.device("cuda")
    documents = None if document_ids is None else document_ids.to(device)
    leaves = [torch.randn(2, heads, SEQ, 16, device=device) for heads in (4, 2, 2)]
    q, k, v = (leaf.requires_grad_() for leaf in leaves)
    mask = view_row(SEQ, window, documents, device).mask
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    actual = attend(q, k, v, block_mask(SEQ, window, documents, device))
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)
    gradients = torch.autograd.grad(expected.square().sum(), [q, k, v])
    for a, e in zip(torch.autograd.grad(actual.square().sum(), [q, k, v]), gradients, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-2, atol=2e-2)

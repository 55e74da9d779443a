"""Packed matrices: the same numbers, and a network that nobody notices was copied."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from lit_gpt_kit.generation import packed
from lit_gpt_kit.generation.generate import generate
from lit_gpt_kit.generation.packed import PackedLinear, pack
from lit_gpt_kit.generation.sampling import SamplingConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora, lora_layers, merge_lora

BuildGPT = Callable[..., GPT]
GREEDY = SamplingConfig(40, temperature=0.0)
IDS = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(0))
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"tie_embeddings": True},
    "llama": {
        "position": "rotary",
        "num_kv_heads": 2,
        "norm": "rmsnorm",
        "mlp": "swiglu",
        "use_bias": False,
    },
    "capped": {"position": "rotary", "logit_softcap": 2.0, "attention_softcap": 2.0},
    "experts": {"mlp": "swiglu", "num_experts": 3},
}
pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this torch has no oneDNN")


@torch.inference_mode()
def logits_of(model: GPT) -> Tensor:
    out: Tensor = model(IDS)
    return out


def num_packed(model: GPT) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


# ---- the numbers ----


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_logits_are_the_plain_ones(random_gpt: BuildGPT, shape: str) -> None:
    model = random_gpt(**SHAPES[shape])
    fast = pack(model)
    assert num_packed(fast) == sum(type(m) is nn.Linear for m in model.modules()) + 1
    torch.testing.assert_close(logits_of(fast), logits_of(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_bfloat16_logits_are_nearly_the_plain_ones(random_gpt: BuildGPT, shape: str) -> None:
    model = random_gpt(**SHAPES[shape]).bfloat16()
    fast = pack(model)
    assert (num_packed(fast) > 0) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    plain, got = logits_of(model).float(), logits_of(fast).float()
    # Sums in another order round otherwise, one part in 2^8 at a time.
    torch.testing.assert_close(got, plain, rtol=0, atol=0.03 * plain.std().item())


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_multiplies_any_number_of_rows(rows: int, bias: bool) -> None:
    linear, x = nn.Linear(40, 24, bias=bias), torch.randn(3, rows, 40)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)
        every_second = x[:, ::2, :]
        torch.testing.assert_close(
            PackedLinear(linear)(every_second), linear(every_second), rtol=1e-5, atol=1e-5
        )


# ---- what is shared ----


def test_all_but_the_matrices_is_shared(random_gpt: BuildGPT) -> None:
    model = random_gpt(position="rotary", tie_embeddings=True)
    fast = pack(model)
    theirs = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    matrices = {m.packed for m in fast.modules() if isinstance(m, PackedLinear)}
    assert {id(t) for t in (*fast.parameters(), *fast.buffers())} <= theirs
    assert len(matrices) == num_packed(fast)
    assert fast.token_embedding.weight is model.token_embedding.weight
    assert fast.norm.weight is model.norm.weight


def test_the_network_itself_is_left_alone(random_gpt: BuildGPT) -> None:
    model = random_gpt(position="rotary")
    names = list(model.state_dict())
    modules = list(model.modules())
    attributes = set(vars(model))
    before = generate(model, [[1, 2]], GREEDY)
    assert list(model.state_dict()) == names
    assert list(map(id, model.modules())) == list(map(id, modules))
    assert set(vars(model)) == attributes
    assert num_packed(model) == 0
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert generate(twin, [[1, 2]], GREEDY) == before
        assert torch.equal(logits_of(twin), logits_of(model))


def test_the_network_can_be_trained_after_it_generated(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    generate(model, [[1, 2]], GREEDY)
    model.train()(IDS).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# ---- LoRA ----


@pytest.mark.parametrize("use_dora", [False, True])
def test_what_lora_learned_is_packed_in_and_seen_again(
    random_gpt: BuildGPT, use_dora: bool
) -> None:
    model = apply_lora(random_gpt(position="rotary"), LoRAConfig(use_dora=use_dora))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model.train()(IDS).logsumexp(-1).sum().backward()
        optimizer.step()
        fast = pack(model.eval())
        assert not lora_layers(fast)
        assert num_packed(fast) == len(lora_layers(model)) + 1
        torch.testing.assert_close(logits_of(fast), logits_of(model), rtol=1e-4, atol=1e-4)
        text = generate(model, [[1, 2]], GREEDY)  # with a cache, unlike the next line
        merged = generate(merge_lora(copy.deepcopy(model)), [[1, 2]], SamplingConfig(20, 0.0))
        assert text[0][:20] == merged[0]
        assert lora_layers(model)


def test_frozen_weights_in_a_smaller_type_are_packed_in_the_networks(random_gpt: BuildGPT) -> None:
    model = apply_lora(random_gpt(), LoRAConfig())
    for layer in lora_layers(model).values():
        layer.round_base(torch.bfloat16)
    fast = pack(model)
    assert not lora_layers(fast)
    plain = logits_of(model)
    torch.testing.assert_close(logits_of(fast), plain, rtol=0, atol=0.03 * plain.std().item())


def test_layers_around_what_cannot_be_packed_stay(random_gpt: BuildGPT) -> None:
    model = apply_lora(random_gpt(), LoRAConfig(targets=("attention.out",)))
    for layer in lora_layers(model).values():
        layer.base = Doubled(32, 32)
    fast = pack(model)
    assert len(lora_layers(fast)) == 2
    torch.testing.assert_close(logits_of(fast), logits_of(model), rtol=1e-5, atol=1e-5)


# ---- when it is made anew ----


def test_it_is_made_once(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    fast = pack(model)
    generate(model, [[1, 2]], GREEDY)
    assert pack(model) is fast


def step(optimizer: Callable[..., torch.optim.Optimizer], **options: Any) -> Callable[[GPT], None]:
    def change(model: GPT) -> None:
        optimizer_ = optimizer(model.parameters(), lr=0.5, **options)
        model(IDS).logsumexp(-1).sum().backward()
        optimizer_.step()

    return change


def load(model: GPT) -> None:
    model.load_state_dict({name: 0.5 * t for name, t in model.state_dict().items()})


def write_in_inference_mode(model: GPT) -> None:
    with torch.inference_mode():
        model.lm_head.weight.mul_(0.5)


def replace(model: GPT) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 0.5)


def write_through_data(model: GPT) -> None:
    model.lm_head.weight.data.mul_(0.5)


def replace_data(model: GPT) -> None:
    model.lm_head.weight.data = model.lm_head.weight.data * 0.5


def reorder_through_data(model: GPT) -> None:
    model.lm_head.weight.data.copy_(model.lm_head.weight.data.flip(0))


def wrap(model: GPT) -> None:
    class Halved(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.out_features = inner.out_features

        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * self.inner(x)

    model.lm_head = Halved(model.lm_head)  # type: ignore[assignment]


def hook(model: GPT) -> None:
    model.lm_head.register_forward_hook(lambda module, args, out: 0.5 * out)


def pre_hook(model: GPT) -> None:
    model.lm_head.register_forward_pre_hook(lambda module, args: (0.5 * args[0],))


def forward_replaced(model: GPT) -> None:
    plain = model.lm_head.forward
    model.lm_head.forward = lambda x: 0.5 * plain(x)  # type: ignore[method-assign]


def to_bfloat16(model: GPT) -> None:
    model.to(torch.bfloat16)


CHANGES = {
    "sgd": step(torch.optim.SGD, foreach=False),
    "foreach": step(torch.optim.SGD, foreach=True),
    "adamw": step(torch.optim.AdamW),
    "fused": step(torch.optim.AdamW, fused=True),
    "load_state_dict": load,
    "inference mode": write_in_inference_mode,
    "replaced": replace,
    "data replaced": replace_data,
    "written through .data": write_through_data,
    "reordered through .data": reorder_through_data,
    "a layer wrapped": wrap,
    "a hook": hook,
    "a hook before": pre_hook,
    "another forward": forward_replaced,
    "another type": to_bfloat16,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen(random_gpt: BuildGPT, what: str) -> None:
    model = random_gpt(position="rotary", vocab_size=31)
    old = logits_of(pack(model))
    CHANGES[what](model)
    model.eval()
    new = logits_of(pack(model)).float()
    assert not torch.allclose(new, old, atol=1e-3)
    expected = logits_of(model).float()
    tolerance = 1e-4 if model.dtype == torch.float32 else 0.03 * expected.std().item()
    torch.testing.assert_close(new, expected, rtol=1e-4, atol=tolerance)


# ---- when it is not used ----


def test_a_network_in_training_is_run_as_it_is(random_gpt: BuildGPT) -> None:
    model = random_gpt().train()
    assert pack(model) is model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_are_run_as_they_are(random_gpt: BuildGPT, dtype: torch.dtype) -> None:
    model = random_gpt().to(dtype)
    assert pack(model) is model


def test_bfloat16_is_run_as_it_is_where_the_processor_has_no_kernel(
    random_gpt: BuildGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    model = random_gpt().bfloat16()
    assert pack(model) is model
    mixed = random_gpt()
    mixed.blocks[0].mlp.up.to(torch.bfloat16)
    fast = pack(mixed)
    assert num_packed(fast) == num_packed(pack(random_gpt())) - 1
    assert fast.blocks[0].mlp.up.weight is mixed.blocks[0].mlp.up.weight


def test_a_large_network_is_run_as_it_is(
    random_gpt: BuildGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_gpt()
    size = sum(parameter.nbytes for parameter in model.parameters())
    monkeypatch.setattr(packed, "MAX_PACKED_BYTES", size - 1)
    assert pack(model) is model
    monkeypatch.setattr(packed, "MAX_PACKED_BYTES", size)
    assert pack(model) is not model


class Doubled(nn.Linear):
    """A layer of somebody else's, that does more than multiply."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_subclass_keeps_what_it_does(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    for block in model.blocks:
        old = block.mlp.up
        block.mlp.up = Doubled(old.in_features, old.out_features)
    fast = pack(model)
    assert all(isinstance(block.mlp.up, Doubled) for block in fast.blocks)
    torch.testing.assert_close(logits_of(fast), logits_of(model), rtol=1e-5, atol=1e-5)


class Halve(nn.Module):
    """A parametrization: the weight is half of what is stored."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def test_parametrised_layers_keep_what_they_do(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    parametrize.register_parametrization(model.lm_head, "weight", Halve())
    torch.testing.assert_close(logits_of(pack(model)), logits_of(model), rtol=1e-5, atol=1e-5)


def test_pruned_layers_keep_what_they_do(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    prune.l1_unstructured(model.lm_head, "weight", amount=0.5)
    expected = int(logits_of(model)[0, -1].argmax())
    assert generate(model, [IDS[0].tolist()], SamplingConfig(1, 0.0)) == [[expected]]
    torch.testing.assert_close(logits_of(pack(model)), logits_of(model), rtol=1e-5, atol=1e-5)


class Recorder:
    """Somebody's probe, whose hook is a method."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, out: Any = None) -> None:
        self.seen.append(args[0] if isinstance(args[0], Tensor) else out)


@pytest.mark.parametrize("where", ["blocks.0", "blocks.0.attention.qkv", "norm", "lm_head"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after the first text"])
def test_hooks_are_called(random_gpt: BuildGPT, where: str, kind: str, is_late: bool) -> None:
    model, recorder = random_gpt(), Recorder()
    if is_late:
        generate(model, [[1, 2]], GREEDY)
    handle = getattr(model.get_submodule(where), kind)(recorder)
    expected = generate(model, [[1, 2]], GREEDY)
    assert len(recorder.seen) == 40
    handle.remove()
    assert generate(model, [[1, 2]], GREEDY) == expected
    assert len(recorder.seen) == 40


# ---- when it goes ----


def test_it_goes_with_the_network(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    fast = weakref.ref(pack(model))
    matrix = weakref.ref(next(m for m in pack(model).modules() if isinstance(m, PackedLinear)))
    old = weakref.ref(model)
    assert model in packed._packed
    del model
    gc.collect()
    assert old() is None
    assert fast() is None
    assert matrix() is None


def test_the_old_copy_goes_when_a_new_one_comes(random_gpt: BuildGPT) -> None:
    model = random_gpt()
    fast = weakref.ref(pack(model))
    load(model)
    pack(model)
    gc.collect()
    assert fast() is None

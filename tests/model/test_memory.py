"""Memory worked out from a shape, against networks that are built and steps that are measured."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.generation import decoder
from lit_gpt_kit.model import attention
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.int8 import quantize_int8
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.memory import (
    PREFILL_CHUNK,
    Checkpointing,
    Memory,
    Precision,
    Use,
    _kept_bytes,
    memory_needed,
    memory_to_run,
    memory_to_train,
)
from lit_gpt_kit.model.size import count_parameters

SMALL: dict[str, Any] = {"vocab_size": 60, "block_size": 32, "num_layers": 3, "embed_dim": 24}
LLAMA: dict[str, Any] = {
    "position": "rotary",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "use_bias": False,
}
MOE: dict[str, Any] = {**LLAMA, "num_experts": 6, "num_active_experts": 2, "expert_dim": 16}


def built(config: GPTConfig) -> GPT:
    with torch.device("meta"):
        return GPT(config, initialize=False)


# ---- memory, by formula ----


def test_weights_are_as_wide_as_the_precision_says() -> None:
    config = GPTConfig(**SMALL)
    count = count_parameters(config)
    assert memory_needed(config, "run", "fp32").weights == 4 * count
    assert memory_needed(config, "run", "bf16").weights == 2 * count
    matrices = 3 * (24 * 72 + 24 * 24 + 2 * 24 * 96) + 60 * 24
    # autocast keeps its copies of the matrices
    assert memory_needed(config, "full", "bf16-mixed").weights == 4 * count + 2 * matrices


@pytest.mark.parametrize("tied", [True, False])
def test_int8_weights_are_what_quantising_leaves(tied: bool) -> None:
    config = GPTConfig(**SMALL, **LLAMA, tie_embeddings=tied)
    model = quantize_int8(GPT(config).bfloat16())
    tables = {id(b) for m in (model.rotary,) if m is not None for b in m.buffers()}
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for tensor in (*model.parameters(), *model.buffers())
        if id(tensor) not in tables
    }
    assert memory_needed(config, "run", "int8").weights == sum(tensors.values())


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2), ("bf16-mixed", 4)])
def test_training_keeps_a_gradient_and_two_moments(precision: Precision, width: int) -> None:
    config = GPTConfig(**SMALL)
    memory = memory_needed(config, "full", precision)
    assert memory.gradients == width * count_parameters(config)
    assert memory.optimizer == 2 * memory.gradients
    assert memory.cache == 0
    parts = memory.weights + memory.gradients + memory.optimizer + memory.activations
    assert memory.total == parts + memory.logits


def test_adapters_alone_have_gradients_and_moments() -> None:
    config = GPTConfig(**SMALL)
    pairs = 3 * ((24 + 72) + (24 + 24) + 2 * (24 + 96))
    full, lora = (memory_needed(config, use, "fp32", lora_rank=4) for use in ("full", "lora"))
    assert lora.gradients == 4 * 4 * pairs
    assert lora.optimizer == 2 * lora.gradients
    assert lora.weights == full.weights + lora.gradients


@pytest.mark.parametrize("context", [500, 3000])
@pytest.mark.parametrize("window", [None, 256])
def test_cache_is_what_generation_allocates(window: int | None, context: int) -> None:
    pattern = ("full",) if window is None else ("window", "full")
    shape = {"num_kv_heads": 2, "attention_pattern": pattern, "sliding_window": window}
    config = GPTConfig(**{**SMALL, **shape, **LLAMA, "block_size": 4096})
    assert PREFILL_CHUNK == decoder.PREFILL_CHUNK
    cache = KVCache(config, 3, context, max_new=min(context, PREFILL_CHUNK))
    held = sum(tensor.nbytes for tensor in [*cache.keys, *cache.values])
    spare = 2 * 4 * 3 * 2 * 2 * config.num_layers  # a slot more in each row, for padding
    memory = memory_to_run(config, "fp32", context_tokens=context, batch_size=3)
    assert memory.cache == held - spare


def test_a_row_is_no_longer_than_the_block() -> None:
    config = GPTConfig(**SMALL)
    assert memory_needed(config, num_tokens=1000) == memory_needed(config, num_tokens=32)
    assert memory_needed(config, num_tokens=16).cache == memory_needed(config).cache / 2


def test_more_rows_need_more_activations_and_logits_alone() -> None:
    config = GPTConfig(**SMALL)
    one, two = (memory_to_train(config, "fp32", size, 16) for size in (1, 2))
    assert two.activations == 2 * one.activations
    assert two.logits == 2 * one.logits
    assert replace(two, activations=one.activations, logits=one.logits) == one


def test_a_table_of_positions_lies_beside_the_weights() -> None:
    config = GPTConfig(**SMALL, position="sinusoidal")
    table = 4 * 32 * 24
    assert memory_needed(config, precision="fp32").weights == 4 * count_parameters(config) + table


def test_use_without_the_precision() -> None:
    with pytest.raises(InputError, match="'int8' is not for use='full'; known: fp32, bf16-mixed"):
        memory_needed(GPTConfig(**SMALL), "full", "int8")
    complaint = "'int8' is not for use='run' of a mixture of experts; known: fp32, bf16"
    with pytest.raises(InputError, match=complaint):
        memory_needed(GPTConfig(**SMALL, **MOE), "run", "int8")


def test_memory_adds_up() -> None:
    assert Memory(1, 20, 300, 4000, 50000, 600_000, 7_000_000).total == 7_654_321


def test_optimizer_keeps_what_it_keeps_of_each_part() -> None:
    config = GPTConfig(**SMALL, use_bias=False, norm="rmsnorm")
    numbers = {"hidden": 1.0, "embeddings": 2.0, "head": 2.0}
    memory = memory_to_train(config, "fp32", 1, 16, optimizer_numbers=numbers)
    hidden = 3 * 24 * (72 + 24 + 2 * 96)
    assert memory.optimizer == 4 * (2 * count_parameters(config) - hidden)


# ---- activations, against what autograd keeps ----

KEPT: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {**LLAMA, "num_kv_heads": 2},
    "qwen3": {**LLAMA, "num_kv_heads": 2, "use_qk_norm": True, "head_dim": 64},
    "olmo2": {
        **LLAMA,
        "use_qk_norm": True,
        "qk_norm_scope": "all_heads",
        "norm_placement": "post",
    },
    "gemma": {**LLAMA, "use_norm_offset": True, "mlp": "geglu_tanh"},
    "gemma2": {**LLAMA, "norm_placement": "both", "attention_softcap": 50.0},
    "neox": {"position": "rotary", "rotary_fraction": 0.25, "use_parallel_residual": True},
    "shifted": {**LLAMA, "use_token_shift": True},
    "looked up": {**LLAMA, "num_kv_heads": 2, "value_embedding_layers": (0, 2, 3)},
    "experts": {**LLAMA, "num_experts": 8, "num_active_experts": 2},
}


def kept_by_autograd(config: GPTConfig, precision: Precision, batch: int, seq: int) -> int:
    """Bytes of what the backward pass of the blocks will read, weights aside."""
    model = GPT(config).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, 60, (batch, seq))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
    ):
        hidden = model.hidden_states(ids)
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("shape", KEPT)
@pytest.mark.parametrize("spells_out", [False, True])
def test_activations_are_what_autograd_keeps(
    shape: str, precision: Precision, spells_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not spelled out as on a GPU; spelled out, a CPU keeps bfloat16 weights of attention, too.
    monkeypatch.setattr(attention, "MAX_SCORES", attention.MAX_SCORES if spells_out else 0)
    batch, seq, embed = 2, 256, 128
    config = GPTConfig(60, seq, num_layers=4, num_heads=4, embed_dim=embed, **KEPT[shape])
    measured = kept_by_autograd(config, precision, batch, seq)
    copies = memory_needed(config, "full", precision).weights
    copies -= 2 * 60 * embed + memory_needed(config, "full", "fp32").weights
    if precision == "bf16-mixed":  # autocast's copies count as weights
        measured -= copies
    layers = sum(_kept_bytes(config, layer, precision, seq) for layer in range(4))
    keeps_scores = spells_out and precision != "fp32"
    scores = 4 * batch * config.num_heads * seq**2 * 2 if keeps_scores else 0
    assert batch * seq * layers + scores == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("embed", "heads", "seq"), [(768, 12, 1024), (12288, 96, 2048)])
def test_a_gpt_layer_keeps_what_megatron_counts(embed: int, heads: int, seq: int) -> None:
    """34 bytes s b h in half precision (Korthikanti et al. 2022, 4.1), its two dropout masks off.

    Their 5as/h are scores, which a fused kernel does not keep but for the sum of each row.
    """

    def activations(num_layers: int) -> int:
        config = GPTConfig(50257, seq, num_layers=num_layers, num_heads=heads, embed_dim=embed)
        return memory_to_train(config, "bf16", 4, seq).activations

    layer = activations(3) - activations(2)
    assert layer == 4 * seq * ((34 - 2) * embed + 4 * heads)


# ---- memory, against processes ----

MEASURE = """
import json, re, sys
import torch
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.execution import ExecutionConfig, apply_execution
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.kv_cache import KVCache
from lit_gpt_kit.model.loss import next_token_loss

fields, use, batch, seq, how = json.loads(sys.argv[1])

def resident(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

def work(model, optimizer, batch, seq):
    ids = torch.randint(0, model.config.vocab_size, (batch, seq))
    if use == "run":
        with torch.inference_mode():
            hidden = model.eval().hidden_states(ids, cache=KVCache(model.config, batch, seq))
            model.lm_head(hidden[:, -1])
        return
    for _ in range(2):
        loss = next_token_loss(model.hidden_states(ids), model.lm_head, ids)
        optimizer.zero_grad()  # after the forward pass, as Lightning does
        loss.backward()
        optimizer.step()

def make(config):
    with torch.device("meta"):
        model = GPT(config, initialize=False)
    model.to_empty(device="cpu").tie_weights()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.normal_(std=0.02)
    apply_execution(model, ExecutionConfig(activation_checkpointing=how))
    return model, torch.optim.AdamW(model.parameters())

work(*make(GPTConfig(vocab_size=9, block_size=16, num_layers=1, num_heads=2, embed_dim=8)), 1, 8)
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
work(*make(GPTConfig(**fields)), batch, seq)
print(resident("VmHWM") - before)
"""
GPT2_25M: dict[str, Any] = {
    "vocab_size": 16384,
    "block_size": 512,
    "num_layers": 6,
    "num_heads": 8,
    "embed_dim": 512,
}
LLAMA_60M: dict[str, Any] = {
    **LLAMA,
    "vocab_size": 32000,
    "block_size": 512,
    "num_layers": 12,
    "num_heads": 8,
    "num_kv_heads": 4,
    "embed_dim": 512,
    "tie_embeddings": False,
}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="measures as Linux does")
@pytest.mark.parametrize(
    ("fields", "use", "batch", "how"),
    [
        (GPT2_25M, "full", 2, "none"),
        (LLAMA_60M, "full", 2, "none"),
        (GPT2_25M, "full", 4, "selective"),
        (GPT2_25M, "full", 4, "full"),
        (GPT2_25M, "run", 1, "none"),
        (LLAMA_60M, "run", 1, "none"),
    ],
)
def test_a_process_needs_what_is_worked_out(
    fields: dict[str, Any], use: Use, batch: int, how: Checkpointing
) -> None:
    seq, config = fields["block_size"], GPTConfig(**fields)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([fields, use, batch, seq, how])],
        # What is freed goes back at once: the gaps in glibc's heap are not the network's.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    memory = memory_needed(config, use, "fp32", seq, batch)
    if how != "none":
        memory = memory_to_train(config, "fp32", batch, seq, activation_checkpointing=how)
    print(f"measured {int(result.stdout):,} worked out {memory.total:,}: {memory}")
    assert memory.total == pytest.approx(int(result.stdout), rel=0.1)

"""Compiled networks beside plain ones, as a program: prints what it found as JSON."""

import json
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor_config

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.generation.generate import generate
from lit_gpt_kit.generation.sampling import SamplingConfig
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.execution import ExecutionConfig, apply_execution, check_compiler
from lit_gpt_kit.model.gpt import GPT
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora
from lit_gpt_kit.model.loss import next_token_loss

SHAPE: dict[str, Any] = {
    "vocab_size": 17, "block_size": 16, "num_layers": 3, "num_heads": 2, "embed_dim": 32,
    "position": "rotary",
}  # fmt: skip
COMPILED = ExecutionConfig(compile=True)
CASES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.2},
    "bfloat16": {"is_bf16": True},
    "adapters": {"lora": True},
    "packed rows": {"documents": True},
    "rows of other lengths": {"lengths": (16, 12, 9, 14, 11)},
    "blocks made twice": {"dropout": 0.2, "execution": ExecutionConfig(True, "full")},
    "cheap operations made twice": {"execution": ExecutionConfig(True, "selective")},
}


def build(execution: ExecutionConfig | None = None, lora: bool = False, **changes: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**SHAPE, **changes}))
    if lora:
        apply_lora(model, LoRAConfig(rank=2, dropout=0.2))
        for name, parameter in model.named_parameters():
            if ".b." in name:
                torch.nn.init.normal_(parameter)
    if execution is not None:
        apply_execution(model, execution, backend="aot_eager")
    return model


def step(model: GPT, is_bf16: bool = False, seq: int = 16, documents: bool = False) -> list[Tensor]:
    """Loss and gradients; the backward pass starts with other random numbers than the forward."""
    torch.manual_seed(1)
    ids, targets = torch.randint(17, (4, seq)), torch.randint(17, (4, seq))
    document_ids = (torch.arange(seq) // 5).expand(4, seq) if documents else None
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        loss = next_token_loss(model.hidden_states(ids, document_ids), model.lm_head, targets)
    torch.manual_seed(2)
    model.zero_grad()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [loss.detach(), *gradients]


def compare(
    execution: ExecutionConfig = COMPILED,
    lengths: tuple[int, ...] = (16,),
    is_bf16: bool = False,
    documents: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Whether loss and gradients are the same, how many graphs it took, and what is renamed."""
    torch._dynamo.reset()
    compiler = CompileCounterWithBackend("aot_eager")
    model, plain = build(**changes), build(**changes)
    apply_execution(model, execution, backend=compiler)
    pairs = [
        pair
        for seq in lengths
        for pair in zip(
            step(model, is_bf16, seq, documents), step(plain, is_bf16, seq, documents), strict=True
        )
    ]
    return {
        "same": all(torch.equal(actual, expected) for actual, expected in pairs),
        "graphs": compiler.frame_count,
        "names_changed": sorted(set(model.state_dict()) ^ set(plain.state_dict())),
    }


def generating() -> dict[str, Any]:
    torch._dynamo.reset()
    compiler = CompileCounterWithBackend("aot_eager")
    model, plain = build().eval(), build().eval()
    apply_execution(model, COMPILED, backend=compiler)
    sampling = SamplingConfig(max_new_tokens=5, temperature=0.0)
    with torch.compiler.set_stance("force_eager"):
        tokens = generate(model, [[1, 2, 3]], sampling)
    same = tokens == generate(plain, [[1, 2, 3]], sampling)
    return {"graphs": compiler.frame_count, "same": same}


def complaint_without_a_compiler() -> str:
    with inductor_config.patch({"cpp.cxx": (None, "nonesuch")}):
        try:
            check_compiler(torch.device("cpu"))
        except InputError as error:
            return str(error)
    return "none"


if __name__ == "__main__":
    found: dict[str, Any] = {name: compare(**options) for name, options in CASES.items()}
    complaint = complaint_without_a_compiler()
    print(json.dumps({**found, "generating": generating(), "without a compiler": complaint}))

"""Peak memory of one training step, by what is kept for the backward pass.

python -m tests.benchmarks.step_memory [--shape gpt2|smollm2-lora] [--rows N] [--length N]

`gpt2` is GPT-2 small, all of it trained; `smollm2-lora` is adapters of rank 16 on SmolLM2-135M, as
in configs/finetune/instruct-lora.yaml. Weights are random.

Each case is a process of its own: forward, backward and a step of fused AdamW, all of it at once.
Peaks are the resident memory's (Linux), or what a GPU's allocator gave out, less what an idle
process with torch takes.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lit_gpt_kit import GPT, GPTConfig
from lit_gpt_kit.model.execution import ExecutionConfig, apply_execution
from lit_gpt_kit.model.lora import LoRAConfig, apply_lora, lora_layers
from lit_gpt_kit.model.loss import next_token_loss

SHAPES = {
    "gpt2": GPTConfig(vocab_size=50304, block_size=1024),
    "smollm2-lora": GPTConfig(
        vocab_size=49152, block_size=1024, num_layers=30, num_heads=9, num_kv_heads=3,
        embed_dim=576, mlp_dim=1536, position="rotary", norm="rmsnorm", mlp="swiglu",
        use_bias=False,
    ),
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "full logits": {"max_logits": 2**62},
    "chunked logits (as it is)": {},
    "full logits, blocks made twice": {
        "max_logits": 2**62,
        "activation_checkpointing": "full",
    },
    "chunked, selective": {"activation_checkpointing": "selective"},
    "chunked, blocks made twice": {"activation_checkpointing": "full"},
}


def measure(shape: str, rows: int, length: int, case: dict[str, Any]) -> dict[str, float]:
    """GiB at the peak, and seconds of processor time of the step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    idle = peak_bytes(device)
    model = GPT(SHAPES[shape]).to(device)
    if shape.endswith("lora"):
        apply_lora(model, LoRAConfig(rank=16, alpha=32, dropout=0.05))
        for layer in lora_layers(model).values():
            layer.round_base(torch.bfloat16)
    kind = case.get("activation_checkpointing", "none")
    apply_execution(model, ExecutionConfig(activation_checkpointing=kind))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    for parameter in trained:  # with the optimiser's state there, as in any later step
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    ids = torch.randint(model.lm_head.out_features, (rows, length), device=device)
    limit = {"max_logits": case["max_logits"]} if "max_logits" in case else {}
    start = time.process_time()
    with torch.autocast(device.type, torch.bfloat16):
        loss = next_token_loss(model.hidden_states(ids), model.lm_head, ids, **limit)
    (loss / ids.numel()).backward()
    optimizer.step()
    seconds = time.process_time() - start
    return {"gib": (peak_bytes(device) - idle) / 2**30, "seconds": seconds}


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--case", choices=list(CASES), help="this one alone, printed as JSON")
    options = parser.parse_args()
    if options.case:
        case = CASES[options.case]
        print(json.dumps(measure(options.shape, options.rows, options.length, case)))
        return
    print(f"| {options.shape}, {options.rows} x {options.length} | peak GiB | processor s |")
    print("|---|---|---|")
    for name in CASES:
        command = [sys.executable, "-m", "tests.benchmarks.step_memory", "--case", name]
        command += ["--shape", options.shape]
        command += ["--rows", str(options.rows), "--length", str(options.length)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        figures = json.loads(result.stdout)
        print(f"| {name} | {figures['gib']:.2f} | {figures['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""Peak memory of one training step of GPT-2 small, by what is kept for the backward pass.

python -m tests.benchmarks.step_memory [--rows N] [--precision bf16|fp32]

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
from lit_gpt_kit.model.loss import next_token_loss

BLOCK_SIZE, VOCAB_SIZE = 1024, 50304
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


def measure(rows: int, is_bf16: bool, case: dict[str, Any]) -> dict[str, float]:
    """GiB at the peak, and seconds of processor time of the step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    idle = peak_bytes(device)
    model = GPT(GPTConfig(vocab_size=VOCAB_SIZE, block_size=BLOCK_SIZE)).to(device)
    kind = case.get("activation_checkpointing", "none")
    apply_execution(model, ExecutionConfig(activation_checkpointing=kind))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for parameter in model.parameters():  # with the optimiser's state there, as in any later step
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    ids = torch.randint(VOCAB_SIZE, (rows, BLOCK_SIZE), device=device)
    limit = {"max_logits": case["max_logits"]} if "max_logits" in case else {}
    start = time.process_time()
    with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
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
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--case", choices=list(CASES), help="this one alone, printed as JSON")
    options = parser.parse_args()
    if options.case:
        figures = measure(options.rows, options.precision == "bf16", CASES[options.case])
        print(json.dumps(figures))
        return
    print(f"| {options.rows} rows of {BLOCK_SIZE}, {options.precision} | peak GiB | processor s |")
    print("|---|---|---|")
    for name in CASES:
        command = [sys.executable, "-m", "tests.benchmarks.step_memory", "--case", name]
        command += ["--rows", str(options.rows), "--precision", options.precision]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        figures = json.loads(result.stdout)
        print(f"| {name} | {figures['gib']:.2f} | {figures['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()

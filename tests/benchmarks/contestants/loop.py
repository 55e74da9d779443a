"""A loop with nothing in it but the training, and nanoGPT's recipe for it."""

import resource
import time
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lit_gpt_kit.optim.schedules import WarmupCosine
from tests.benchmarks.contestants.assignment import Assignment
from tests.benchmarks.contestants.text import Characters, LossOf

LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0
WARMUP_STEPS, MIN_FACTOR, SEED = 100, 0.1, 1337


def adamw(model: nn.Module) -> Optimizer:
    """AdamW as nanoGPT has it, decay on matrices alone; fused, which it leaves to GPUs."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)


def cosine(optimizer: Optimizer, assignment: Assignment) -> WarmupCosine:
    """The schedule of nanoGPT, over the steps of the run or its seconds."""
    length: dict[str, Any] = {"total_seconds": assignment.seconds}
    if assignment.seconds is None:
        length = {"total_steps": assignment.warm_up + assignment.steps}
    return WarmupCosine(optimizer, WARMUP_STEPS, min_factor=MIN_FACTOR, **length)


def peak_bytes(who: int = resource.RUSAGE_SELF) -> int:
    """The most memory that the process ever had resident."""
    return resource.getrusage(who).ru_maxrss * 1024


def train(
    model: nn.Module, loss_of: LossOf, assignment: Assignment, optimizer: Optimizer | None = None
) -> dict[str, Any]:
    """Train by nanoGPT's recipe.

    Returns:
        `tokens_per_second` after the warm-up, `peak_bytes`, `steps`; where the assignment asks for
        them, the `loss` at the end, and `losses`: pairs of seconds in steps so far, and loss;
        `training_seconds`, those in all steps, and `validation_seconds`, spent on `losses`.
    """
    shape, text = assignment.shape, Characters(assignment.text)
    optimizer = optimizer or adamw(model)
    schedule = cosine(optimizer, assignment)
    end = None if assignment.seconds else assignment.warm_up + assignment.steps
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=assignment.precision == "bf16")

    def mean_loss(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with autocast:
            return loss_of(ids, targets)

    losses: list[tuple[float, float]] = []
    counted = seconds = not_training = 0.0
    step = 0
    while not (schedule.is_over if end is None else step == end):
        start = time.perf_counter()
        ids, targets = text.batch(shape.batch_size, shape.block_size)
        loss = mean_loss(ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        took = time.perf_counter() - start
        schedule.advance(ids.numel(), took)
        schedule.step()
        step += 1
        seconds += took
        counted += took if step > assignment.warm_up else 0.0
        if assignment.evaluate_every and step % assignment.evaluate_every == 0:
            losses.append((seconds, evaluate(model, mean_loss, text, shape.block_size)))
            not_training += time.perf_counter() - start - took
    loss_at_end = None
    if assignment.seconds:
        loss_at_end = evaluate(model, mean_loss, text, shape.block_size)
    tokens = shape.tokens_per_step * max(0, step - assignment.warm_up)
    return {
        "tokens_per_second": tokens / counted if counted else None,
        "peak_bytes": peak_bytes(),
        "steps": step,
        "loss": loss_at_end,
        "losses": losses,
        "training_seconds": seconds,
        "validation_seconds": not_training,
    }


def evaluate(model: nn.Module, loss_of: LossOf, text: Characters, block_size: int) -> float:
    model.eval()
    loss = text.validate(loss_of, block_size)
    model.train()
    return loss

"""transformers' Trainer over its own GPT-2, with its own loop, loader and optimiser.

Where the loss is compared it gets nanoGPT's learning rate and schedule: its own default, 5e-5, is
meant for models that are already trained.
"""

import tempfile
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from tests.benchmarks.contestants.assignment import Assignment, Size, answer
from tests.benchmarks.contestants.loop import SEED, adamw, cosine, evaluate, peak_bytes
from tests.benchmarks.contestants.text import Characters


class Rows(Dataset[dict[str, Tensor]]):
    """The text cut into rows."""

    def __init__(self, text: Characters, block_size: int) -> None:
        num_rows = len(text.train) // block_size
        self.rows = text.train[: num_rows * block_size].view(num_rows, block_size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Clock(TrainerCallback):
    """When training began and each step was taken; moves the schedule on, and ends the run."""

    def __init__(self, schedule: Any, seconds: float | None) -> None:
        self.schedule, self.seconds = schedule, seconds
        self.times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())
        self.schedule.advance(0, self.times[-1] - self.times[-2])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.seconds and self.times[-1] - self.times[0] >= self.seconds:
            control.should_training_stop = True


def build_model(shape: Size) -> GPT2LMHeadModel:
    torch.manual_seed(SEED)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.block_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_embd=shape.embed_dim,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def transformers_trainer(assignment: Assignment) -> dict[str, Any]:
    shape, text = assignment.shape, Characters(assignment.text)
    model = build_model(shape)
    optimizer = adamw(model)
    schedule = cosine(optimizer, assignment)
    clock = Clock(schedule, assignment.seconds)
    # It makes its own where it is given none.
    own_or_ours: Any = (optimizer, schedule) if assignment.seconds else (None, None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=10**9 if assignment.seconds else assignment.warm_up + assignment.steps,
                per_device_train_batch_size=shape.batch_size,
                bf16=assignment.precision == "bf16",
                use_cpu=True,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=SEED,
            ),
            train_dataset=Rows(text, shape.block_size),
            callbacks=[clock],
            optimizers=own_or_ours,
        )
        trainer.train()
    steps, loss = len(clock.times) - 1, None
    if assignment.seconds:

        def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=assignment.precision == "bf16"):
                logits = model(ids).logits
            return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

        loss = evaluate(model, loss_of, text, shape.block_size)
    counted = clock.times[-1] - clock.times[min(assignment.warm_up, steps)]
    tokens = shape.tokens_per_step * max(0, steps - assignment.warm_up)
    return {
        "tokens_per_second": tokens / counted if counted else None,
        "peak_bytes": peak_bytes(),
        "steps": steps,
        "loss": loss,
    }


if __name__ == "__main__":
    answer(transformers_trainer)

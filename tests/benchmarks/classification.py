"""SmolLM2 with a two-class head on sentence_polarity: ours beside transformers' Trainer.

python -m tests.benchmarks.classification [--steps N] [--rounds N] [--threads N]

Both read the same rows (shuffled with random.Random(0), the first 1,066 held out) for one epoch,
in batches of 16 cut to 64 tokens, with AdamW at 5e-5, 30 warm-up steps and a line down, clipping at
1, bf16 autocast. `--steps` cuts the epoch, to compare speed alone; `--rounds` lets both take turns
that often, each turn a process of its own, and takes medians. The Trainer needs `accelerate`.
"""

import argparse
import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.conftest import SHARED_DATA
from tests.smollm2 import smollm2_gguf

DATA = SHARED_DATA / "sentence_polarity" / "sentence_polarity.jsonl.gz"
NUM_HELD_OUT, BATCH_SIZE, LONGEST, LEARNING_RATE, WARM_UP = 1066, 16, 64, 5e-5, 30
EVALUATION_BATCH = 32


def prepare(folder: Path) -> None:
    """Write the two splits, and the model as a Hugging Face folder that both load."""
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    random.Random(0).shuffle(rows)
    for name, part in (("val", rows[:NUM_HELD_OUT]), ("train", rows[NUM_HELD_OUT:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    from lit_gpt_kit import load_model
    from lit_gpt_kit.checkpoints.export import export_folder

    export_folder(*load_model(smollm2_gguf()), folder / "model")


def ours(folder: Path, steps: int) -> dict[str, float]:
    """Train and evaluate with lit_gpt_kit."""
    from lightning.pytorch import Callback, Trainer, seed_everything

    from lit_gpt_kit import (
        ClassificationDataModule,
        ClassificationMetrics,
        SequenceClassification,
        WarmupLinear,
    )

    class Clock(Callback):
        def on_train_start(self, *args: Any) -> None:
            self.start = time.perf_counter()

        def on_train_end(self, *args: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    seed_everything(0, verbose=False)
    clock = Clock()
    task = SequenceClassification(
        optimizer=lambda p: torch.optim.AdamW(p, lr=LEARNING_RATE, weight_decay=0.0, fused=True),
        lr_schedule=lambda optimizer: WarmupLinear(optimizer, warmup_steps=WARM_UP),
        pretrained=str(folder / "model"),
    )
    data = ClassificationDataModule(
        sources=[str(folder / "train.jsonl")],
        val_sources=[str(folder / "val.jsonl")],
        batch_size=BATCH_SIZE,
        block_size=LONGEST,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=steps,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[clock, ClassificationMetrics(plots=False)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    trainer.fit(task, data)
    num_rows = trainer.global_step * BATCH_SIZE
    data.batch_size = EVALUATION_BATCH
    trainer.limit_val_batches = 1.0 if steps < 0 else 8
    start = time.perf_counter()
    (metrics,) = trainer.validate(task, data, verbose=False)
    evaluated = min(NUM_HELD_OUT, 8 * EVALUATION_BATCH) if steps >= 0 else NUM_HELD_OUT
    return {
        "rows_per_second": num_rows / clock.seconds,
        "evaluation_rows_per_second": evaluated / (time.perf_counter() - start),
        "seconds": clock.seconds,
        **{name: metrics[f"val/{name}"] for name in ("accuracy", "f1", "auroc")},
    }


def transformers_trainer(folder: Path, steps: int) -> dict[str, float]:
    """Train and evaluate with transformers' Trainer, as its own example does it."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
    from torch.utils.data import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=2)
    model.config.pad_token_id = tokenizer.pad_token_id

    class Rows(Dataset[dict[str, Any]]):
        def __init__(self, name: str) -> None:
            lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            texts = [row["text"] for row in rows]
            self.ids = tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
            self.labels = [row["label"] for row in rows]

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"input_ids": self.ids[index], "labels": self.labels[index]}

    val = Rows("val")
    if steps >= 0:
        val.ids, val.labels = val.ids[: 8 * EVALUATION_BATCH], val.labels[: 8 * EVALUATION_BATCH]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            num_train_epochs=1,
            max_steps=steps,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=EVALUATION_BATCH,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARM_UP,
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Rows("train"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    logits = torch.tensor(np.asarray(trainer.predict(val).predictions)).float()
    evaluation_seconds = time.perf_counter() - start
    guesses, truth = logits.argmax(-1).numpy(), np.array(val.labels)
    return {
        "rows_per_second": trainer.state.global_step * BATCH_SIZE / seconds,
        "evaluation_rows_per_second": len(val) / evaluation_seconds,
        "seconds": seconds,
        "accuracy": accuracy_score(truth, guesses),
        "f1": f1_score(truth, guesses, average="macro"),
        "auroc": roc_auc_score(truth, (logits[:, 1] - logits[:, 0]).numpy()),
    }


CONTESTANTS = {"ours": ours, "transformers": transformers_trainer}


def take_turn(name: str, folder: Path, steps: int, threads: int) -> dict[str, float]:
    """Run one contestant in a process of its own."""
    module = "tests.benchmarks.classification"
    command = [sys.executable, "-m", module, "--only", name, "--folder", str(folder)]
    command += ["--steps", str(steps), "--threads", str(threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(out.splitlines()[-1])
    return result


def main() -> None:
    """Let the contestants take turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=-1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=CONTESTANTS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only is not None:
        result = CONTESTANTS[options.only](options.folder, options.steps)
        print(json.dumps({name: float(value) for name, value in result.items()}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        if not (folder / "model").exists():
            prepare(folder)
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
        for _ in range(options.rounds):
            for contestant in CONTESTANTS:
                turn = take_turn(contestant, folder, options.steps, options.threads)
                turns[contestant].append(turn)
                print(contestant, {key: round(value, 4) for key, value in turn.items()}, flush=True)
    medians = {
        contestant: {key: statistics.median(turn[key] for turn in results) for key in results[0]}
        for contestant, results in turns.items()
    }
    for key in medians["ours"]:
        own, other = medians["ours"][key], medians["transformers"][key]
        print(f"{key:>28}  ours {own:9.4f}  transformers {other:9.4f}  ratio {own / other:.2f}")


if __name__ == "__main__":
    main()

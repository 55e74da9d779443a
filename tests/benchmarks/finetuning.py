"""What each configuration of configs/finetune/ makes of SmolLM2-135M-Instruct: before and after.

python -m tests.benchmarks.finetuning [NAME ...] [--folder FOLDER] [--threads N]

For each it writes the rows beside the runs, trains with the configuration as it stands, and
measures the untuned model on the same held-out rows; it prints one line a metric. The data are
those of `../shared/data`, the model is the GGUF file of the tests.
"""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from tests.conftest import REPOSITORY, SHARED_DATA
from tests.smollm2 import smollm2_gguf

LIT_GPT = Path(sys.executable).with_name("lit-gpt")
NUM_HELD_OUT = 200


def read(name: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file of the shared data."""
    with gzip.open(SHARED_DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """A JSONL file of these rows; returns its name."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path.name


def sources(train: str, val: str | None = None) -> list[str]:
    """The flags that name the data."""
    flags = [f"--data.sources=[{train}]"]
    return flags if val is None else [*flags, f"--data.val_sources=[{val}]"]


def translate(folder: Path) -> list[str]:
    """Tatoeba: 200 of 40,000 pairs are held out by the configuration itself."""
    return sources(str(SHARED_DATA / "tatoeba_en_fr" / "en_fr_40k.tsv.gz"))


def summarize(folder: Path) -> list[str]:
    """DialogSum's dev rows and the last 300 of its test rows; the first 200 are held out."""
    test = [
        {"dialogue": row["dialogue"], "summary": row["summary1"]}
        for row in read("dialogsum/test.jsonl.gz")
    ]
    train = [*read("dialogsum/dev.jsonl.gz"), *test[NUM_HELD_OUT:]]
    return [
        *sources(
            write(folder / "dialogues.jsonl", train),
            write(folder / "dialogues-held-out.jsonl", test[:NUM_HELD_OUT]),
        ),
        f"--trainer.callbacks.init_args.max_examples={NUM_HELD_OUT}",
    ]


def answer(folder: Path) -> list[str]:
    """XQuAD's English questions: those on the last 8 of 48 articles are held out."""
    with gzip.open(SHARED_DATA / "xquad" / "xquad.en.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    for name, part in (("train", articles[:40]), ("held-out", articles[40:])):
        (folder / f"questions-{name}.json").write_text(json.dumps({"data": part}))
    return [
        *sources("questions-train.json", "questions-held-out.json"),
        f"--trainer.callbacks.init_args.max_examples={NUM_HELD_OUT}",
    ]


def chat(folder: Path) -> list[str]:
    """Dialogues of the Schema-Guided Dialogue corpus; a tenth is held out."""
    return sources(str(SHARED_DATA / "sgd_chat" / "sgd_messages.jsonl.gz"))


def instruct_lora(folder: Path) -> list[str]:
    """Alpaca Libre; a tenth is held out."""
    return sources(str(SHARED_DATA / "alpaca_libre" / "alpaca_libre.jsonl.gz"))


RECIPES: dict[str, Callable[[Path], list[str]]] = {
    "translate": translate,
    "summarize": summarize,
    "answer": answer,
    "chat": chat,
    "instruct-lora": instruct_lora,
}


def lit_gpt(folder: Path, threads: int, *arguments: str) -> float:
    """Run a command in the folder; returns the seconds it took."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "offline"}
    start = time.perf_counter()
    subprocess.run([LIT_GPT, *arguments], cwd=folder, env=environment, check=True)
    return time.perf_counter() - start


def measure(name: str, folder: Path, threads: int) -> None:
    """Train and compare, and print what came of it."""
    config = str(REPOSITORY / "configs" / "finetune" / f"{name}.yaml")
    flags = [f"--model.pretrained={smollm2_gguf()}", *RECIPES[name](folder)]
    base = ["--config", config, *flags]
    seconds = lit_gpt(folder, threads, "fit", *base, "--run_dir", f"{name}/tuned")
    lit_gpt(
        folder,
        threads,
        *("validate", *base, "--run_dir", f"{name}/untuned", "--ckpt_path", "pretrained"),
    )
    before = json.loads((folder / name / "untuned" / "validate.json").read_text())
    with (folder / name / "tuned" / "metrics.csv").open(newline="") as file:
        after = [row for row in csv.DictReader(file) if row["val/loss"]][-1]
    print(f"{name}: {seconds:.0f} s of training and validation on {threads} threads")
    for metric in sorted(before):
        print(f"{metric:>20}  before {before[metric]:9.4f}  after {float(after[metric]):9.4f}")


def main() -> None:
    """Measure the recipes that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--folder", type=Path, default=Path("runs") / "finetuning")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or RECIPES:
        measure(name, options.folder.resolve(), options.threads)


if __name__ == "__main__":
    main()

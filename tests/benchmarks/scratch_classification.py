"""A small GPT without anybody's weights beside tf-idf and logistic regression, on the same rows.

python -m tests.benchmarks.scratch_classification [--seeds 0 1 2] [--folder FOLDER] [--threads N]

sentence_polarity, shuffled with random.Random(0), the first 1,066 rows held out. The GPT is what
`configs/finetune/classify-scratch.yaml` makes of all other rows; its last checkpoint is scored, so
nothing is chosen by the held-out rows. The baseline counts words and pairs of words
(`TfidfVectorizer`), and its C is chosen by cross-validation on the same training rows. Seconds are
of training, and for the GPT of the whole command. Needs scikit-learn.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.finetuning import lit_gpt, read, write
from tests.conftest import REPOSITORY

CONFIG = REPOSITORY / "configs" / "finetune" / "classify-scratch.yaml"
NUM_HELD_OUT, NUM_FOLDS, STRENGTHS = 1066, 5, [1, 3, 10, 30, 100, 300, 1000]
COLUMNS = ("accuracy", "f1", "auroc", "parameters", "seconds")


def split() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows to train on, and those held out."""
    rows = read("sentence_polarity/sentence_polarity.jsonl.gz")
    random.Random(0).shuffle(rows)
    return rows[NUM_HELD_OUT:], rows[:NUM_HELD_OUT]


def baseline(train: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> dict[str, float]:
    """tf-idf of words and pairs of words, and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000)
    )
    search = GridSearchCV(pipeline, {"logisticregression__C": STRENGTHS}, cv=NUM_FOLDS)
    start = time.perf_counter()
    search.fit([row["text"] for row in train], [row["label"] for row in train])
    seconds = time.perf_counter() - start
    print(f"C = {search.best_params_['logisticregression__C']}")
    truth, texts = [row["label"] for row in held_out], [row["text"] for row in held_out]
    guesses = search.predict(texts)
    return {
        "accuracy": accuracy_score(truth, guesses),
        "f1": f1_score(truth, guesses, average="macro"),
        "auroc": roc_auc_score(truth, search.predict_proba(texts)[:, 1]),
        "parameters": search.best_estimator_[-1].coef_.size + 1,
        "seconds": seconds,
    }


def gpt(folder: Path, seed: int, threads: int) -> dict[str, float]:
    """The configuration as it stands, on all training rows."""
    run_dir = folder / f"seed-{seed}"
    last = run_dir / "checkpoints" / "last.ckpt"
    base = ["--config", str(CONFIG), f"--seed_everything={seed}", "--trainer.accelerator=cpu"]
    base += ["--data.val_fraction=0", "--data.test_sources=[test.jsonl]"]
    seconds = lit_gpt(folder, threads, "fit", *base, "--run_dir", str(run_dir))
    tested = folder / f"test-{seed}"
    lit_gpt(folder, threads, "test", *base, "--run_dir", str(tested), "--ckpt_path", str(last))
    metrics = json.loads((tested / "test.json").read_text())
    weights = torch.load(last, weights_only=True)["state_dict"]
    # A tied head is there under two names.
    count = sum({w.data_ptr(): w.numel() for w in weights.values()}.values())
    scores = {name: metrics[f"test/{name}"] for name in ("accuracy", "f1", "auroc")}
    return {**scores, "parameters": count, "seconds": seconds}


def main() -> None:
    """Measure both, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "scratch-classification")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = split()
    write(folder / "train.jsonl", train)
    write(folder / "test.jsonl", held_out)
    table = {"tf-idf, logistic regression": baseline(train, held_out)}
    runs = [gpt(folder, seed, options.threads) for seed in options.seeds]
    for seed, run in zip(options.seeds, runs, strict=True):
        table[f"GPT, seed {seed}"] = run
    table["GPT, mean"] = {key: statistics.mean(run[key] for run in runs) for key in COLUMNS}
    print("| | accuracy | macro F1 | AUROC | parameters | seconds |\n|---|---|---|---|---|---|")
    for name, row in table.items():
        scores = " | ".join(f"{row[key]:.4f}" for key in COLUMNS[:3])
        print(f"| {name} | {scores} | {row['parameters']:,.0f} | {row['seconds']:.0f} |")


if __name__ == "__main__":
    main()

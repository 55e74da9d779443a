"""Draw the curves of a run: python docs/plot_metrics.py RUN_DIR [PICTURE.png]."""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CURVES = {"train/loss": "tab:blue", "val/loss": "tab:orange"}


def read_curve(path: Path, name: str) -> tuple[list[float], list[float]]:
    """Tokens seen and values of a metric, at the steps that have it."""
    tokens, values, seen = [], [], 0.0
    with path.open() as file:
        for row in csv.DictReader(file):
            seen = float(row.get("train/tokens") or seen)
            if row.get(name):
                tokens.append(seen)
                values.append(float(row[name]))
    return tokens, values


def plot_run(run_dir: Path, picture: Path) -> None:
    """Loss against tokens, and the rate of the optimiser below it."""
    path = run_dir / "metrics.csv"
    figure, (loss, rate) = plt.subplots(
        2, 1, sharex=True, figsize=(8, 5), height_ratios=(3, 1), layout="constrained"
    )
    for name, colour in CURVES.items():
        marker = "o" if name.startswith("val") else None
        loss.plot(*read_curve(path, name), color=colour, label=name, marker=marker)
    loss.set_ylabel("nats per token")
    loss.legend()
    loss.set_title(run_dir.parent.name)
    rate.plot(*read_curve(path, "train/lr"), color="tab:grey")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("tokens seen")
    for axis in (loss, rate):
        axis.grid(alpha=0.3)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
    print(f"written to {picture}")


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    plot_run(folder, Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "plots" / "loss.png")

"""Run folders as `fit` leaves them, made in no time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"max_steps": 100, "logger": None, "callbacks": None},
    "model": {
        "class_path": "lit_gpt_kit.LanguageModeling",
        "init_args": {
            "gpt": {"num_layers": 2, "embed_dim": 16},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        },
    },
    "data": {"class_path": "lit_gpt_kit.TextDataModule", "init_args": {"sources": ["a.txt"]}},
}
SAMPLES = """\
# Samples

## Step 100, 3,200 tokens

```text
To be <b>bold</b>
```

```text
Second prompt
```

## Step 50, 1,600 tokens

````text
```text
a fence
```
````

```text
Second, earlier
```
"""


def write_metrics(folder: Path, num_steps: int = 100, offset: float = 0.0) -> None:
    """A metrics.csv of a run with a row a step and a validation every ten."""
    lines = ["step,train/loss,train/lr,train/tokens,train/step_seconds,val/loss,val/accuracy"]
    for step in range(1, num_steps + 1):
        val = f"{4 - step / 50 + offset:.4f},{step / 200:.4f}" if step % 10 == 0 else ","
        lines.append(f"{step},{4 - step / 40 + offset:.4f},0.01,{32 * step},0.5,{val}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def write_run(
    folder: Path,
    config: Mapping[str, Any] = CONFIG,
    facts: Mapping[str, Any] | None = None,
    **metrics: Any,
) -> Path:
    """A run folder with config.yaml, metrics.csv, samples.md and, where there are facts, run.json.

    Args:
        folder: of the run.
        config: of the run.
        facts: of run.json.
        metrics: arguments of `write_metrics`.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "samples.md").write_text(SAMPLES)
    if facts is not None:
        (folder / "run.json").write_text(json.dumps(facts))
    write_metrics(folder, **metrics)
    return folder

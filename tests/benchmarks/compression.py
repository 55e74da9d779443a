"""Bits per byte of a run on its validation documents, beside what xz -9e makes of the same text.

python -m tests.benchmarks.compression RUN_DIR
"""

import csv
import lzma
import sys
from pathlib import Path

import yaml

from lit_gpt_kit import TextDataModule, TokenizerConfig


def validation_text(run_dir: Path) -> str:
    """The validation documents of a run, without their end tokens."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    options = dict(config["data"]["init_args"])
    if isinstance(options["tokenizer"], dict):
        options["tokenizer"] = TokenizerConfig(**options["tokenizer"])
    data = TextDataModule(**options | {"block_size": 2})
    data.prepare_data()
    data.setup("validate")
    ids = data.val_stream.read(0, data.val_stream.num_tokens).tolist()
    return data.tokenizer.decode([i for i in ids if i != data.tokenizer.end_id])


def main(run_dir: Path) -> None:
    """Print both numbers."""
    text = validation_text(run_dir).encode()
    packed = lzma.compress(text, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
    with (run_dir / "metrics.csv").open() as file:
        losses = [row["val/bits_per_byte"] for row in csv.DictReader(file)]
    ours = min(float(loss) for loss in losses if loss)
    print(f"{len(text):,} bytes of validation text")
    print(f"lit-gpt {ours:.3f} bits per byte")
    print(f"xz -9e  {8 * len(packed) / len(text):.3f} bits per byte")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

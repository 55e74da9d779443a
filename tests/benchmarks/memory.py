"""Peak memory of tokenising a large file: a BPE is trained on it, then all of it is encoded.

python -m tests.benchmarks.memory TEXT_FILE [NUM_BYTES]

The file is repeated until it has NUM_BYTES, two gigabytes by default. Needs Linux.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# VmHWM is the process's own peak; getrusage's includes what the parent held when it forked.
CHILD = """
import json, sys
from pathlib import Path
from lit_gpt_kit import TextDataModule, TokenizerConfig

path, cache = sys.argv[1:]
tokenizer = TokenizerConfig("bpe", 512)
data = TextDataModule([path], tokenizer=tokenizer, block_size=64, cache_dir=cache)
data.prepare_data()
data.setup("fit")
batch = data.train_dataloader().batch(0)
status = Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
texts = [data.tokenizer.decode(row) for row in batch["input_ids"].tolist()]
num_bytes = data.train_stream.store.info.num_bytes
print(json.dumps({"peak_bytes": peak * 1024, "num_bytes": num_bytes, "texts": texts}))
"""


def measure_peak(text_file: Path, num_bytes: int, folder: Path) -> dict[str, Any]:
    """Tokenise at least `num_bytes` of text in a process of its own.

    Returns:
        `peak_bytes` of resident memory, `num_bytes` tokenised, and the `texts` of a batch.
    """
    text = text_file.read_bytes()
    path = folder / "large.txt"
    with path.open("wb") as file:
        for _ in range(-(-num_bytes // len(text))):
            file.write(text)
    command = [sys.executable, "-c", CHILD, str(path), str(folder / "cache")]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    """Print the peak."""
    num_bytes = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000_000
    with tempfile.TemporaryDirectory() as folder:
        result = measure_peak(Path(sys.argv[1]), num_bytes, Path(folder))
    print(f"{result['num_bytes']:,} bytes of text: peak {result['peak_bytes'] / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()

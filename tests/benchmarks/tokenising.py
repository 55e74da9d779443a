"""MB of text a second: a file to tokens on disk, beside the library's own encode_batch; medians.

python -m tests.benchmarks.tokenising FILE.txt
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lit_gpt_kit.data.documents import cut_text, read_documents
from lit_gpt_kit.data.token_store import open_or_build
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer

REPEATS = 5
MIN_BYTES = 8 << 20


def main(source: Path) -> None:
    """Print both rates; they take turns, so that a slow moment of the machine hits both."""
    text = source.read_text(encoding="utf-8")
    text *= -(-MIN_BYTES // len(text))
    megabytes = len(text.encode()) / 1e6
    pieces = [piece.text for piece in cut_text(text)]
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=4096), pieces)
    ours, library = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        file.write_text(text, encoding="utf-8")
        for _ in range(REPEATS):
            start = time.perf_counter()
            open_or_build(Path(folder) / "store", lambda: read_documents(file, "text"), tokenizer)
            ours.append(megabytes / (time.perf_counter() - start))
            shutil.rmtree(Path(folder) / "store")
            start = time.perf_counter()
            tokenizer.backend.encode_batch(pieces)
            library.append(megabytes / (time.perf_counter() - start))
    mine, theirs = statistics.median(ours), statistics.median(library)
    print(f"lit-gpt, file to disk    {mine:6.2f} MB/s")
    print(f"encode_batch, in memory  {theirs:6.2f} MB/s")
    print(f"share                    {mine / theirs:6.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""How long a person waits for the first sign of life; median of five.

python -m tests.benchmarks.startup RUN_DIR
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("lit-gpt"))
REPEATS = 5
PROMPT = "The "


def seconds_to_end(arguments: list[str]) -> float:
    """From Enter to the end of the command."""
    start = time.perf_counter()
    subprocess.run([COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def seconds_to_first_token(run_dir: str) -> float:
    """From Enter to the first character behind the prompt."""
    start = time.perf_counter()
    arguments = ["generate", run_dir, "--prompt", PROMPT, "--max_new_tokens", "20", "--seed", "0"]
    with subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(len(PROMPT) + 1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds


def main(run_dir: str) -> None:
    """Print a line a command."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = f"{folder}/tokenizer.json"
        train = ["tokenizer", "train", "--sources", __file__, "--vocab_size", "400"]
        seconds_to_end([*train, "--output", tokenizer])
        inspect = ["tokenizer", "inspect", tokenizer, "--text", "hello"]
        cases = {
            "lit-gpt --help": lambda: seconds_to_end(["--help"]),
            "lit-gpt tokenizer inspect": lambda: seconds_to_end(inspect),
            "lit-gpt generate, first token": lambda: seconds_to_first_token(run_dir),
            "lit-gpt fit --help": lambda: seconds_to_end(["fit", "--help"]),
        }
        for name, measure in cases.items():
            seconds = statistics.median(measure() for _ in range(REPEATS))
            print(f"{name:32} {seconds:6.2f} s")


if __name__ == "__main__":
    main(sys.argv[1])

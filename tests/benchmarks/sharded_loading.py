"""Memory of each rank while a pretrained model is loaded and laid over two devices.

`python -m tests.benchmarks.sharded_loading` writes a Llama of random weights in bfloat16 and lays
it in float32 over two processes of this machine in two ways, a weight at a time and whole on each
rank first. It prints the most that a rank held beside what it had before. Pages of a mapped file
are not counted: the system drops them when it likes.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from torch.distributed.device_mesh import init_device_mesh

from lit_gpt_kit.checkpoints.load import load_model
from lit_gpt_kit.checkpoints.on_demand import open_model
from lit_gpt_kit.parallel.deferred import Deferred
from lit_gpt_kit.parallel.layout import DATA, TENSOR, ShardingOptions, lay_out
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.ranks import run_ranks

WAYS = {"a weight at a time": True, "whole on each rank": False}
NUM_RANKS = 2


def held_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line) * 1024


class Peak(threading.Thread):
    """The most memory held within the body, beside what was held before."""

    def __enter__(self) -> "Peak":
        self.start_bytes = self.most_bytes = held_bytes()
        self.is_over = False
        self.start()
        return self

    def run(self) -> None:
        while not self.is_over:
            self.most_bytes = max(self.most_bytes, held_bytes())
            time.sleep(0.002)

    def __exit__(self, *args: object) -> None:
        self.is_over = True
        self.join()

    @property
    def added_bytes(self) -> int:
        return self.most_bytes - self.start_bytes


def load(folder: str, is_on_demand: bool) -> int:
    mesh = init_device_mesh("cpu", (NUM_RANKS, 1), mesh_dim_names=(DATA, TENSOR))
    with Peak() as peak:
        deferred, holder = Deferred(torch.device("cpu")), torch.nn.Module()
        if is_on_demand:
            opened = open_model(folder)
            holder.model = opened.model
            for name, parameter in opened.model.named_parameters():
                deferred.fill_with(parameter, lambda whole, name=name: opened.fill(name, whole))
        else:
            holder.model = load_model(folder)[0]
        lay_out(holder, mesh, ShardingOptions(), deferred.materialize)
    return peak.added_bytes


def write_model(folder: Path) -> int:
    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "vocab_size": 8192,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, bos_token_id=0))
    model.bfloat16().save_pretrained(folder)  # as most are kept
    train_tokenizer(TokenizerConfig("byte"), []).backend.save(str(folder / "tokenizer.json"))
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        size = write_model(Path(place))
        print(f"a model of {size / 2**20:,.0f} MiB in float32 over {NUM_RANKS} ranks")
        print("| way | most held by a rank, MiB | in models |\n|---|---|---|")
        for way in WAYS:
            file = Path(place) / "peak"
            run_ranks("tests.benchmarks.sharded_loading", NUM_RANKS, place, way, str(file))
            peak = int(file.read_text())
            print(f"| {way} | {peak / 2**20:,.0f} | {peak / size:.2f} |", flush=True)


def measure(folder: str, way: str, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    peaks = [None] * NUM_RANKS
    dist.all_gather_object(peaks, load(folder, WAYS[way]))
    if dist.get_rank() == 0:
        Path(file).write_text(str(max(peak for peak in peaks if peak is not None)))
    dist.destroy_process_group()


if __name__ == "__main__":
    measure(*sys.argv[1:]) if len(sys.argv) > 1 else main()

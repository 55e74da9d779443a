"""lit_gpt_kit beside its neighbours, in turn in one run: tokens a second, memory, loss.

python -m tests.benchmarks [--text FILE] [--nanogpt MODEL_PY] [--litgpt PYTHON] [--rounds N]
    [--only training|learning ...] [--sizes 0.8M|10.65M|124M ...] [--threads N]
    [--output FIGURES.json] [--write [PAGE]]

`training` is speed and memory with one shape for all (GPT-2's), AdamW, clipping, bf16 autocast
unless said otherwise; `learning` the loss on the whole validation part of the text after equal
time. Neighbours learn by nanoGPT's recipe in that shape with its schedule fitted to the time;
`lit-gpt fit` by configs/shakespeare-char.yaml. Who is not there is left out with a word. `--write`
puts the tables into docs/benchmarks.md, `--output` keeps the figures of every turn.
"""

import argparse
import importlib.util
import os
import sys
from dataclasses import replace

from tests.benchmarks import options as shared
from tests.benchmarks.contestants.assignment import SIZES, Assignment
from tests.benchmarks.machine import conditions, shown_command
from tests.benchmarks.tables import publish, shown, table
from tests.benchmarks.turns import Contestant, Turns, median, median_ratio

FIT, BARE = "`lit-gpt fit`", "bare loop, our GPT"
SECTIONS = ("training", "learning")


def contestants(options: argparse.Namespace) -> list[Contestant]:
    """Those that are there; says who is not."""
    found = [
        Contestant(FIT, "fit", is_ours=True),
        Contestant(BARE, "bare_loop", is_ours=True),
    ]
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("accelerate"):
        found.append(Contestant("transformers Trainer", "transformers_trainer"))
    else:
        print("left out: transformers Trainer (pip install transformers accelerate)")
    if options.litgpt:
        # As written: to resolve the link would lead out of its environment.
        python = os.path.abspath(options.litgpt)
        found.append(Contestant("litgpt 0.5.13, bare loop", "litgpt_model", python=python))
    else:
        print("left out: litgpt (--litgpt PYTHON, of an environment with litgpt==0.5.13)")
    if options.nanogpt:
        found += [
            Contestant("nanoGPT's model, bare loop", "nanogpt_model"),
            Contestant("the same as shipped, fp32", "nanogpt_model", precision="fp32"),
        ]
    else:
        print("left out: nanoGPT (--nanogpt MODEL_PY, its model.py)")
    return found


def training_table(turns: Turns, entered: list[Contestant], sizes: list[str]) -> str:
    """A row a contestant and size: speed, beside the bare loop's and the best's, and memory."""
    rows = []
    for size in sizes:
        rates = {c: turns.of("training", c.name, size, "tokens_per_second") for c in entered}
        base = next(figures for c, figures in rates.items() if c.name == BARE)
        neighbours = [figures for c, figures in rates.items() if not c.is_ours]
        best = max(neighbours, key=lambda figures: median(figures) or 0.0, default={})
        for contestant, figures in rates.items():
            peaks = turns.of("training", contestant.name, size, "peak_bytes")
            rows.append(
                [
                    size,
                    contestant.name,
                    shown(median(figures), ",.0f"),
                    shown(median_ratio(figures, base), ".3f"),
                    shown(median_ratio(figures, best), ".3f"),
                    shown(median({number: peak / 1e6 for number, peak in peaks.items()}), ",.0f"),
                ]
            )
    head = ["size", "", "tokens/s", "of the bare loop", "of the best neighbour", "peak memory, MB"]
    return table(head, rows)


def learning_table(turns: Turns, entered: list[Contestant], sizes: list[str]) -> str:
    """A row a contestant and size: the loss, and the steps that it took."""
    rows = []
    for size in sizes:
        for contestant in entered:
            loss = median(turns.of("learning", contestant.name, size, "loss"))
            steps = median(turns.of("learning", contestant.name, size, "steps"))
            recipe = ", `configs/shakespeare-char.yaml`, its own size"
            name = contestant.name + (recipe if contestant.name == FIT else "")
            rows.append([size, name, shown(loss, ".3f"), shown(steps, ",.0f")])
    return table(["size", "", "val/loss", "steps"], rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = shared.build_parser(__doc__)
    parser.add_argument("--litgpt", metavar="PYTHON")
    parser.add_argument("--nanogpt", type=shared.existing_file, metavar="MODEL_PY")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.8M", "10.65M"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm_up", type=int, default=10, help="steps that do not count")
    parser.add_argument("--steps", type=int, default=100, help="steps of a turn of `training`")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a turn of `learning`")
    options = parser.parse_args(arguments)
    if options.steps < options.warm_up:
        parser.error(f"--steps {options.steps} must be at least --warm_up {options.warm_up}")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    entered = contestants(options)
    command = shown_command("tests.benchmarks", arguments, shared.WHERE_RESULTS_GO)
    where = conditions(options.threads)
    heading = {"command": command.splitlines()[2], "measured": where}
    turns = Turns(heading, options.output)
    assignment = Assignment(
        text=shared.text_of(options),
        threads=options.threads,
        warm_up=options.warm_up,
        steps=options.steps,
        nanogpt=options.nanogpt,
    )
    for section in options.only:
        seconds = options.seconds if section == "learning" else None
        for size in options.sizes:
            for number in range(options.rounds):
                for contestant in entered:
                    turn = replace(
                        assignment, size=size, seconds=seconds, precision=contestant.precision
                    )
                    turns.take(contestant, section, number, turn)
        show = training_table if section == "training" else learning_table
        length = f"{options.steps} steps" if seconds is None else f"{seconds:g} seconds"
        rounds = f"Medians of {options.rounds} rounds of {length} each, ratios within a round."
        text = f"{where} {rounds}\n\n{command}\n\n"
        text += show(turns, entered, options.sizes)
        publish(section, text, options.write)


if __name__ == "__main__":
    main(sys.argv[1:])

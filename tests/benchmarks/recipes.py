"""Our recipes for Tiny Shakespeare beside nanoGPT's: how long, how low, and how soon.

python -m tests.benchmarks.recipes [--nanogpt MODEL_PY] [--fit "OPTIONS" ...] [--rounds N]
    [--threads N] [--text FILE] [--steps N] [--output FIGURES.json] [--write [PAGE]]

Each `--fit` is a run of `lit-gpt fit` with these options; by default configs/shakespeare-char.yaml
as it stands. nanoGPT's recipe for a CPU (4 layers, width 128, 2,000 steps) runs in a bare loop over
its own model, or over ours where its model.py is not given; in fp32, as shipped, and in bf16. All
seconds are from Enter, start-up included. Those of `fit` include validation and saving; nanoGPT's
do not: its loss is measured every 250 steps with the clock stopped. The loss is over the whole
validation part.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import options as shared
from tests.benchmarks.contestants.assignment import Assignment
from tests.benchmarks.contestants.fit import watch
from tests.benchmarks.machine import conditions, shown_command
from tests.benchmarks.tables import publish, shown, table
from tests.benchmarks.turns import Contestant, Turns, answer_of, median

SECTION, SIZE = "recipes", "own size"
OURS = "--config configs/shakespeare-char.yaml"
LOSSES = (1.88, 1.50, 1.4697)
"""What nanoGPT's README says of its recipe for a CPU; a step between; of its recipe for a GPU."""
STEPS, EVALUATE_EVERY = 2000, 250


def reached(losses: Sequence[Sequence[float]], aim: float) -> float | None:
    """Seconds until the first loss that is no higher than the aim; None where there is none."""
    return next((seconds for seconds, loss in losses if loss <= aim), None)


def nanogpt_recipe(contestant: Contestant, assignment: Assignment) -> dict[str, Any]:
    """Its figures, without the time of the validations that only we want."""
    figures = answer_of(contestant, assignment)
    if "error" in figures:
        return figures
    wall_seconds = figures["wall_seconds"] - figures["validation_seconds"]
    start_up = wall_seconds - figures["training_seconds"]
    losses = [(start_up + seconds, loss) for seconds, loss in figures["losses"]]
    loss = losses[-1][1] if losses else None
    return figures | {"wall_seconds": wall_seconds, "losses": losses, "loss": loss}


def recipes_table(turns: Turns, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        figures = {
            figure: median(turns.of(SECTION, name, SIZE, figure))
            for figure in ("wall_seconds", "loss", *map(str, LOSSES))
        }
        seconds = [shown(figures[str(aim)], ".0f") for aim in LOSSES]
        cells = [shown(figures["wall_seconds"], ".0f"), shown(figures["loss"], ".4f")]
        rows.append([name, *cells, *seconds])
    return table(["", "seconds", "val/loss", *(f"seconds to {aim}" for aim in LOSSES)], rows)


def main(arguments: list[str]) -> None:
    parser = shared.build_parser(__doc__)
    parser.add_argument("--nanogpt", type=shared.existing_file, metavar="MODEL_PY")
    parser.add_argument("--fit", action="append", metavar="OPTIONS")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS, help="of nanoGPT's recipe")
    options = parser.parse_args(arguments)
    text = shared.text_of(options)
    command = shown_command("tests.benchmarks.recipes", arguments, shared.WHERE_RESULTS_GO)
    where = conditions(options.threads)
    turns = Turns({"command": command.splitlines()[2], "measured": where}, options.output)

    module, model = "bare_loop", "our GPT"
    if options.nanogpt:
        module, model = "nanogpt_model", "its model"
    neighbours = [
        Contestant(f"nanoGPT's recipe, {model}, {precision}", module, precision)
        for precision in ("fp32", "bf16")
    ]
    ours = {f"`lit-gpt fit {run}`": run for run in options.fit or [OURS]}
    for number in range(options.rounds):
        row = {"section": SECTION, "size": SIZE, "round": number}
        for contestant in neighbours:
            assignment = Assignment(
                text=text,
                threads=options.threads,
                warm_up=0,
                steps=options.steps,
                evaluate_every=min(EVALUATE_EVERY, options.steps),
                precision=contestant.precision,
                nanogpt=options.nanogpt,
            )
            figures = nanogpt_recipe(contestant, assignment)
            turns.add(row | {"contestant": contestant.name} | with_aims(figures))
        for name, run in ours.items():
            words = [absolute(word) for word in shlex.split(run)]
            figures = watch(options.threads, text, "--trainer.accelerator=cpu", *words)
            turns.add(row | {"contestant": name} | with_aims(figures))
    names = [*(contestant.name for contestant in neighbours), *ours]
    content = f"{where} Medians of {options.rounds} rounds.\n\n{command}\n\n"
    content += recipes_table(turns, names)
    publish(SECTION, content, options.write)


def with_aims(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, and when each loss of LOSSES was reached."""
    return figures | {str(aim): reached(figures.get("losses", ()), aim) for aim in LOSSES}


def absolute(word: str) -> str:
    """A file that is there, so that it is found from another folder; another word as it is."""
    return str(Path(word).resolve()) if Path(word).exists() else word


if __name__ == "__main__":
    main(sys.argv[1:])

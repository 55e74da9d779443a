"""Where a run lies beside the reference of its configuration, if there is one."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_gpt_kit.references.matching import find_nearest
from lit_gpt_kit.references.reference import Reference
from lit_gpt_kit.references.verdict import judge_run, tokens_per_step
from lit_gpt_kit.report.run import Run


@dataclass(frozen=True)
class Standing:
    """What a reference says of a run.

    Attributes:
        run: the run.
        reference: what it is compared with; None where what differs forbids it.
        sentence: where the run lies beside it, or what differs.
    """

    run: Run
    reference: Reference | None
    sentence: str


def find_standings(runs: Sequence[Run]) -> list[Standing]:
    """Those of the runs that have a reference, or nearly have one."""
    return [standing for run in runs if (standing := _find_standing(run)) is not None]


def references_of(standings: Sequence[Standing]) -> list[Reference]:
    """Their references, each once."""
    found = (standing.reference for standing in standings)
    return list({reference.name: reference for reference in found if reference}.values())


def _find_standing(run: Run) -> Standing | None:
    fingerprint = run.facts.get("data_fingerprint")
    rows = list(run.metrics.rows.values())
    nearest = find_nearest(run.config, fingerprint, tokens_per_step(rows))
    if nearest is None:
        return None
    reference, differences = nearest
    if differences:
        return Standing(run, None, f"no reference to compare with: {'; '.join(differences)}")
    verdict = judge_run(run.config, fingerprint, rows)
    return None if verdict is None else Standing(run, reference, str(verdict))

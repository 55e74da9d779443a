"""Where a run lies beside the reference of its configuration, if there is one."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_gpt_kit.references.matching import find_reference
from lit_gpt_kit.references.reference import Reference
from lit_gpt_kit.references.verdict import judge_run, tokens_per_step
from lit_gpt_kit.report.run import Run


@dataclass(frozen=True)
class Standing:
    """A run's reference, and a sentence on where the run lies beside it."""

    run: Run
    reference: Reference
    sentence: str


def find_standings(runs: Sequence[Run]) -> list[Standing]:
    """Those of the runs that have a reference."""
    return [standing for run in runs if (standing := _find_standing(run)) is not None]


def references_of(standings: Sequence[Standing]) -> list[Reference]:
    """Their references, each once."""
    return list({standing.reference.name: standing.reference for standing in standings}.values())


def _find_standing(run: Run) -> Standing | None:
    fingerprint = run.facts.get("data_fingerprint")
    rows = list(run.metrics.rows.values())
    reference = find_reference(run.config, fingerprint, tokens_per_step(rows))
    verdict = None if reference is None else judge_run(run.config, fingerprint, rows)
    if reference is None or verdict is None:
        return None
    return Standing(run, reference, str(verdict))

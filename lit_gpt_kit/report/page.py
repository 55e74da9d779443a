"""The report as one HTML page that holds all it needs."""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from lit_gpt_kit.references.reference import COVERAGE
from lit_gpt_kit.report.charts import draw, draw_picture, has_dashes, num_legend_lines
from lit_gpt_kit.report.curves import MOST_POINTS, WINDOW_SHARE
from lit_gpt_kit.report.differences import find_differences
from lit_gpt_kit.report.metrics import Family, group
from lit_gpt_kit.report.run import Run
from lit_gpt_kit.report.samples import Sample
from lit_gpt_kit.report.standing import find_standings, references_of
from lit_gpt_kit.report.table import last_and_best, tabulate
from lit_gpt_kit.report.theme import COLOURS, DARK, LIGHT, chart_config

PICTURE_SCALE = 1.5
LEGEND_LINE, DASHED_LEGEND_LINE = 15, 20
"""Pixels."""
SCRIPT = "window.vegaEmbed = vegaEmbed;"
"""What the page takes of the charts' libraries."""


def render_page(runs: Sequence[Run], title: str) -> str:
    """One page: tables, charts, samples and pictures of the runs.

    It loads nothing: its scripts and pictures are in it, and its policy forbids the browser to
    fetch any. What people wrote into samples and configurations is text to it, never markup.
    """
    uses_tokens = have_tokens(runs)
    standings = find_standings(runs)
    references = references_of(standings)
    sections: dict[str, list[dict[str, Any]]] = {}
    for family in _families(runs):
        chart = draw(
            family,
            runs,
            references,
            uses_tokens=uses_tokens,
            has_run_legend=False,
            is_interactive=True,
        )
        if chart is not None:
            spec = chart.properties(width="container", background="transparent").to_dict()
            # A page gives all of a chart one height, and a classifier's labels would fill it.
            is_dashed = has_dashes(family, len(runs))
            has_legend = is_dashed or len(runs) == 1
            num_lines = num_legend_lines(family.metrics) if has_legend else 1
            extra = (DASHED_LEGEND_LINE if is_dashed else LEGEND_LINE) * (num_lines - 1)
            sections.setdefault(family.section, []).append(
                {"title": family.title, "spec": spec, "extra": extra}
            )
    heads, lines = tabulate(runs)
    environment = Environment(
        loader=PackageLoader("lit_gpt_kit.report", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        made=datetime.now(UTC),
        views=[_view(run, number) for number, run in enumerate(runs)],
        standings=standings,
        references=references,
        light=LIGHT,
        dark=DARK,
        chart_configs={"light": chart_config(LIGHT), "dark": chart_config(DARK)},
        uses_tokens=uses_tokens,
        heads=heads,
        lines=lines,
        sections=sections,
        differences=find_differences([run.config for run in runs]),
        most_points=MOST_POINTS,
        compares=len(runs) > 1,
        coverage=COVERAGE,
        window_percent=100 * WINDOW_SHARE,
        script=vl_convert.javascript_bundle(SCRIPT, vega_lite_version()),
    )


def render_picture(runs: Sequence[Run], title: str) -> bytes:
    """The curves alone, as a PNG."""
    references = references_of(find_standings(runs))
    chart = draw_picture(
        _families(runs), runs, references, uses_tokens=have_tokens(runs), title=title
    )
    return vl_convert.vegalite_to_png(
        chart.to_dict(), vl_version=vega_lite_version(), scale=PICTURE_SCALE
    )


def have_tokens(runs: Sequence[Run]) -> bool:
    """Whether tokens seen are known of every run; else steps are what curves are drawn against."""
    return all(run.num_tokens is not None for run in runs)


def vega_lite_version() -> str:
    """The version of the grammar that the charts are written in."""
    found = re.match(r"v(\d+\.\d+)", alt.SCHEMA_VERSION)
    assert found is not None
    return found[1]


def _families(runs: Sequence[Run]) -> list[Family]:
    return group(name for run in runs for name in run.metric_names)


def _view(run: Run, number: int) -> dict[str, Any]:
    """What the page shows of one run."""
    return {
        "name": run.name,
        "colour": COLOURS[number % len(COLOURS)],
        "num_broken_lines": run.metrics.num_broken_lines,
        "not_finite": _not_finite(run),
        "prompts": _by_prompt(run.samples),
        "pictures": [(path.stem, _data_uri(path)) for path in run.pictures],
        "numbers": last_and_best(run),
        "spikes": run.spikes,
        "config_text": run.config_text,
    }


def _not_finite(run: Run) -> list[tuple[str, list[int]]]:
    found = [(name, run.steps_without_number(name)) for name in run.metric_names]
    return [(name, steps) for name, steps in found if steps]


def _by_prompt(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each prompt, the newest first."""
    ordered = sorted(samples, key=lambda sample: (sample.prompt_number, -sample.step))
    return [list(own) for _, own in groupby(ordered, key=lambda sample: sample.prompt_number)]


def _data_uri(path: Path) -> str:
    kind, _ = guess_type(path.name)
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

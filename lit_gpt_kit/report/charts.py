"""The charts of a report. One definition serves the page, which is interactive, and the picture."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from lit_gpt_kit.references.reference import Reference
from lit_gpt_kit.report.curves import smooth, thin
from lit_gpt_kit.report.metrics import Family
from lit_gpt_kit.report.run import Point, Run
from lit_gpt_kit.report.theme import BAND, COLOURS, DASHES, GREY, LIGHT, chart_config

LONGEST_LEGEND = 45
"""Characters that stand side by side on a phone."""
MOST_LABELS = 30
"""Of a legend; a classifier may have any number."""
LONG_SYMBOL = 400
"""Area of a line in a legend, in pixels, that shows how it is dashed."""
PICTURE_WIDTH, PICTURE_HEIGHT, HALF = 860, 300, 395
NEVER_NOISY = ("train/lr", "train/peak_memory_bytes")


@dataclass(frozen=True)
class Series:
    """A curve of a chart: a metric of a run."""

    run: Run
    metric: str
    points: Sequence[Point]


def series_of(family: Family, runs: Iterable[Run]) -> list[Series]:
    """The curves that a chart of these metrics has; none where no two points can be joined."""
    found = [Series(run, name, run.curve(name)) for run in runs for name in family.metrics]
    has_curve = any(len(series.points) > 1 for series in found)
    return [series for series in found if has_curve and series.points]


def draw(
    family: Family,
    runs: Sequence[Run],
    references: Sequence[Reference] = (),
    *,
    uses_tokens: bool,
    has_run_legend: bool,
    is_interactive: bool,
) -> Any:
    """A chart of a family of metrics, Altair's; None where nothing can be drawn.

    Args:
        family: the metrics.
        runs: all runs of the report, which have the same colours in all charts.
        references: what the runs are expected to be like.
        uses_tokens: have tokens seen on the x-axis, and not steps.
        has_run_legend: say which colour is which run.
        is_interactive: show the value at the pointer.
    """
    series = series_of(family, runs)
    if not series:
        return None
    label = "run" if len(runs) > 1 else "metric"
    labels = [run.name for run in runs] if len(runs) > 1 else list(family.metrics)
    has_legend = len(labels) > 1 and (label == "metric" or has_run_legend)
    x = alt.X(
        "tokens" if uses_tokens else "step",
        type="quantitative",
        title="tokens seen" if uses_tokens else "step",
        # A billion is a B to people of this field, and a G to SI.
        axis=alt.Axis(
            format="~s",
            labelExpr="datum.value ? replace(datum.label, 'G', 'B') : '0'",
            tickCount=6,
        ),
        scale=alt.Scale(nice=False, zero=uses_tokens),
    )
    y = alt.Y(
        "value",
        type="quantitative",
        title=family.unit or None,
        axis=alt.Axis(format=family.format) if family.format else alt.Axis(),
        scale=alt.Scale(zero=family.is_from_zero),
    )
    repeats = [(i % len(COLOURS), i // len(COLOURS) % len(DASHES)) for i in range(len(labels))]
    legend = _legend(labels) if has_legend else None
    colour = alt.Color(
        label,
        type="nominal",
        scale=alt.Scale(domain=labels, range=[COLOURS[colour] for colour, _ in repeats]),
        legend=legend,
    )
    dash = alt.StrokeDash(
        label,
        type="nominal",
        scale=alt.Scale(domain=labels, range=[DASHES[dash] for _, dash in repeats]),
        legend=None,
    )
    if has_dashes(family, len(runs)):
        names = list(family.metrics)
        scale = alt.Scale(domain=names, range=list(DASHES[: len(names)]))
        dash = alt.StrokeDash("metric", type="nominal", scale=scale, legend=_legend(names, GREY))
    bands = [row for reference in references for row in _rows_of_band(family, reference)]
    rows = [row for curve in series for row in _rows_of(family, curve)]
    values: Any = alt.Data(values=[*bands, *rows])  # type: ignore[no-untyped-call]
    data = alt.Chart(values).encode(x=x, y=y)
    base = data.encode(color=colour, detail=["run:N", "metric:N"])
    lines = base.encode(strokeDash=dash)  # of points, the legend would have no symbols
    raw = lines.transform_filter("datum.kind == 'raw'").mark_line(strokeWidth=1, opacity=0.3)
    plain = "datum.kind == 'smooth' || datum.kind == 'line'"
    line = lines.transform_filter(plain).mark_line(strokeWidth=2)
    marked = "datum.kind == 'marked'"
    joined = lines.transform_filter(marked).mark_line(strokeWidth=1.5)
    dotted = f"{marked} || datum.kind == 'single'"
    points = base.transform_filter(dotted).mark_point(size=28, filled=True, opacity=1)
    layers = [*(_band(data) if bands else []), raw, line, joined, points]
    if is_interactive:
        layers.append(_hover(base))
    return alt.layer(*layers)


def draw_picture(
    families: Sequence[Family],
    runs: Sequence[Run],
    references: Sequence[Reference],
    *,
    uses_tokens: bool,
    title: str,
) -> Any:
    """All charts as one of Altair's: the first wide and with the legend, then two by two."""
    charts: list[Any] = []
    for family in families:
        chart = draw(
            family,
            runs,
            references,
            uses_tokens=uses_tokens,
            has_run_legend=not charts,
            is_interactive=False,
        )
        if chart is not None:
            size = (HALF, PICTURE_HEIGHT // 2) if charts else (PICTURE_WIDTH, PICTURE_HEIGHT)
            charts.append(chart.properties(title=family.title, width=size[0], height=size[1]))
    rows = [charts[:1], *(charts[i : i + 2] for i in range(1, len(charts), 2))]
    apart: Any = {"color": "independent", "strokeDash": "independent"}
    parts = [alt.hconcat(*row).resolve_scale(**apart) for row in rows]
    return (
        alt.vconcat(*parts)
        .resolve_scale(**apart)
        .properties(title=alt.TitleParams(title, fontSize=18, offset=12), padding=16)
        .configure(background=LIGHT["page"], **chart_config(LIGHT))
    )


def num_legend_lines(labels: Sequence[str]) -> int:
    """How many lines the legend of these labels has; more than MOST_LABELS are not shown."""
    is_long = sum(len(label) + 4 for label in labels) > LONGEST_LEGEND
    return min(len(labels), MOST_LABELS) if is_long else 1


def has_dashes(family: Family, num_runs: int) -> bool:
    """Whether a curve's dashes say which metric it is, since its colour says which run."""
    kinds = {_is_train(name) for name in family.metrics}  # which are drawn otherwise anyway
    return 1 < num_runs <= len(COLOURS) and len(kinds) < len(family.metrics) <= len(DASHES)


def _legend(labels: Sequence[str], colour: str | None = None) -> alt.Legend:
    return alt.Legend(
        title=None,
        orient="top",
        columns=len(labels) if num_legend_lines(labels) == 1 else 1,
        symbolLimit=MOST_LABELS,
        labelLimit=320,
        symbolType="stroke",
        symbolStrokeWidth=3,
        symbolOpacity=1,
        symbolStrokeColor=colour or alt.Undefined,
        symbolSize=LONG_SYMBOL if colour else alt.Undefined,
    )


def _hover(base: alt.Chart) -> Any:
    """The point nearest to the pointer; the page says what it is."""
    nearest = alt.selection_point(
        nearest=True, on="pointermove", clear="pointerout", encodings=["x", "y"], empty=False
    )
    return (
        base.transform_filter("!test(/smooth|band/, datum.kind) && datum.value !== null")
        # Named fields would lose their texts where the nearest point is looked for.
        .mark_point(size=60, filled=True, tooltip=alt.TooltipContent("data"))
        .encode(opacity=alt.condition(nearest, alt.value(1), alt.value(0)))
        .add_params(nearest)
    )


def _band(data: alt.Chart) -> list[alt.Chart]:
    """Where the curves of more runs would lie, and the middle of it."""
    expected = data.transform_filter("datum.kind == 'band'").encode(detail=["run:N", "metric:N"])
    area = expected.mark_area(color=BAND, opacity=0.3, clip=True)
    middle = expected.mark_line(color=BAND, strokeWidth=1, strokeDash=[4, 3])
    return [area.encode(y=alt.Y("low:Q"), y2="high"), middle]


def _rows_of_band(family: Family, reference: Reference) -> Iterable[dict[str, Any]]:
    for metric in family.metrics:
        band = reference.curves.get(metric)
        if band is None:
            continue
        for tokens, *values in zip(band.tokens, band.low, band.middle, band.high, strict=True):
            low, middle, high = (float(f"{value:.6g}") for value in values)
            yield {
                "run": reference.name,
                "metric": metric,
                "step": round(tokens / reference.tokens_per_step),
                "tokens": round(tokens),
                "low": low,
                "value": middle,
                "high": high,
                "kind": "band",
            }


def _singles(points: Sequence[Point], gaps: Sequence[Point]) -> list[Point]:
    """Those between two gaps: no line would show them."""
    found = sorted([*points, *gaps], key=lambda point: point.step)
    is_end = [True, *(math.isnan(point.value) for point in found), True]
    return [
        point
        for index, point in enumerate(found)
        if is_end[index : index + 3] == [True, False, True]
    ]


def _is_train(metric: str) -> bool:
    return metric.startswith("train/")


def _rows_of(family: Family, series: Series) -> Iterable[dict[str, Any]]:
    is_train = _is_train(series.metric)
    smoothed = smooth(series.points) if is_train and series.metric not in NEVER_NOISY else []
    kind = "line" if is_train else "marked"
    gaps = series.run.gaps(series.metric)
    lines = {"raw": series.points, "smooth": smoothed} if smoothed else {kind: series.points}
    parts = {kind: [*thin(points), *gaps] for kind, points in lines.items()}
    if is_train:
        parts["single"] = _singles(series.points, gaps)
    # The metric's name may say another unit.
    unit = {"unit": family.unit} if family.divisor != 1 else {}
    for kind, points in parts.items():
        for point in points:
            value = point.value / family.divisor
            yield {
                "run": series.run.name,
                "metric": series.metric,
                "step": point.step,
                "tokens": None if point.tokens is None else round(point.tokens),
                # Where it is null, Vega-Lite breaks the line.
                "value": None if math.isnan(value) else float(f"{value:.6g}"),
                "kind": kind,
                **unit,
            }

"""What the charts hold, as Vega-Lite reads it."""

from pathlib import Path
from typing import Any

from lit_gpt_kit.references.reference import Band, Reference
from lit_gpt_kit.report.charts import draw, draw_picture
from lit_gpt_kit.report.metrics import Family, group
from lit_gpt_kit.report.run import Run, read_runs
from lit_gpt_kit.report.theme import COLOURS, DASHES
from tests.report.made import write_run

LOSS = Family("loss", "Loss", ("train/loss", "val/loss"), "nats")
REFERENCE = Reference(
    "shipped",
    num_seeds=3,
    curves={"val/loss": Band((1000.0, 2000.0), (1.0, 0.5), (2.0, 1.5), (3.0, 2.5))},
    tokens_per_step=100.0,
    data_fingerprint="",
    settings={},
    provenance={},
    seeds={},
)


def make_runs(folder: Path, *names: str) -> list[Run]:
    return read_runs([write_run(folder / name, offset=n) for n, name in enumerate(names)])


def spec_of(runs: list[Run], family: Family = LOSS, **options: Any) -> dict[str, Any]:
    given = {"uses_tokens": True, "has_run_legend": True, "is_interactive": False, **options}
    chart = draw(family, runs, **given)
    return {} if chart is None else chart.to_dict()


def rows_of(spec: dict[str, Any], kind: str, **fields: Any) -> list[tuple[float, float]]:
    return [
        (row["tokens"], row["value"])
        for row in spec["data"]["values"]
        if row["kind"] == kind and fields.items() <= row.items()
    ]


def test_values_stand_at_their_tokens(tmp_path: Path) -> None:
    spec = spec_of(make_runs(tmp_path, "a", "b"))
    assert rows_of(spec, "marked", run="a") == [
        (320 * n, round(4 - 0.2 * n, 4)) for n in range(1, 11)
    ]
    assert rows_of(spec, "marked", run="b")[0] == (320, 4.8)
    raw, smoothed = (rows_of(spec, kind, run="a") for kind in ("raw", "smooth"))
    assert (len(raw), len(smoothed)) == (100, 100)
    assert raw[49] == smoothed[49] == (1600, 2.75)  # a line is its own mean


def test_runs_keep_their_colours_in_every_chart(tmp_path: Path) -> None:
    names = [f"run{n}" for n in range(9)]
    runs = make_runs(tmp_path, *names)
    encoding = spec_of(runs)["layer"][0]["encoding"]
    assert encoding["color"]["field"] == "run"
    assert encoding["color"]["scale"] == {"domain": names, "range": [*COLOURS, *COLOURS[:2]]}
    dashes = [*[DASHES[0]] * len(COLOURS), *[DASHES[1]] * 2]
    assert encoding["strokeDash"]["scale"]["range"] == dashes


def test_one_run_has_a_colour_for_each_metric(tmp_path: Path) -> None:
    colour = spec_of(make_runs(tmp_path, "a"))["layer"][0]["encoding"]["color"]
    assert (colour["field"], colour["scale"]["domain"]) == ("metric", ["train/loss", "val/loss"])
    assert colour["legend"]["columns"] == 2


def test_a_band_behind_the_curves(tmp_path: Path) -> None:
    spec = spec_of(make_runs(tmp_path, "a"), references=[REFERENCE])
    band = [row for row in spec["data"]["values"] if row["kind"] == "band"]
    assert [(r["tokens"], r["step"], r["low"], r["value"], r["high"]) for r in band] == [
        *((1000, 10, 1.0, 2.0, 3.0), (2000, 20, 0.5, 1.5, 2.5))
    ]
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["area", *["line"] * 4, "point"]


def test_without_tokens_steps_are_the_axis(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,val/loss\n1,3\n2,2\n")
    spec = spec_of(read_runs([tmp_path]), uses_tokens=False)
    assert spec["layer"][0]["encoding"]["x"]["field"] == "step"
    assert [row["step"] for row in spec["data"]["values"]] == [1, 2]


def test_where_no_two_points_can_be_joined_there_is_no_chart(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,val/loss,train/loss\n1,3,\n")
    assert spec_of(read_runs([tmp_path])) == {}


def test_in_a_comparison_dashes_tell_metrics_of_a_kind(tmp_path: Path) -> None:
    make_runs(tmp_path, "a", "b")
    parts = Family("gradient norm", "Training", ("train/grad_norm", "train/grad_norm/mlp"))
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        text = "step,train/grad_norm,train/grad_norm/mlp\n1,3,1\n2,2,1\n"
        (folder / "metrics.csv").write_text(text)
    runs = read_runs(folders)
    dash = spec_of(runs, parts)["layer"][0]["encoding"]["strokeDash"]
    assert (dash["field"], dash["scale"]["domain"]) == ("metric", list(parts.metrics))
    assert dash["scale"]["range"] == list(DASHES[:2])
    alone = spec_of(runs[:1], parts)["layer"][0]["encoding"]["strokeDash"]
    assert (alone["field"], alone["legend"]) == ("metric", None)
    # Training and validation are drawn otherwise anyway.
    loss = spec_of(make_runs(tmp_path / "more", "a", "b"))["layer"][0]["encoding"]["strokeDash"]
    assert loss["field"] == "run"


def test_a_line_has_a_gap_where_there_is_no_number(tmp_path: Path) -> None:
    values = ("3", "2.5", "nan", "inf", "2", "", "1.5", "nan")
    rows = [f"{step},{32 * step},{value}" for step, value in enumerate(values, start=1)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,train/tokens,val/loss", *rows]) + "\n")
    found = sorted(rows_of(spec_of(read_runs([tmp_path])), "marked"), key=lambda row: row[0])
    assert found == [(32, 3.0), (64, 2.5), (96, None), (160, 2.0), (224, 1.5), (256, None)]


def test_a_value_between_two_gaps_is_a_dot(tmp_path: Path) -> None:
    values = ("nan", "3", "inf", "2.5", "2", "nan", "1")
    rows = [f"{step},{32 * step},{value}" for step, value in enumerate(values, start=1)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,train/tokens,train/loss", *rows]) + "\n")
    assert rows_of(spec_of(read_runs([tmp_path])), "single") == [(64, 3.0), (224, 1.0)]


def test_memory_is_in_gib_whatever_its_metric_is_called(tmp_path: Path) -> None:
    name = "train/peak_memory_bytes"
    lines = [f"step,train/tokens,{name}", "1,32,536870912", "2,64,1610612736"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    spec = spec_of(read_runs([tmp_path]), *group([name]))
    assert rows_of(spec, "line", unit="GiB") == [(32, 0.5), (64, 1.5)]
    assert spec["layer"][0]["encoding"]["y"]["title"] == "GiB"


def test_a_picture_holds_all_charts(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, "a", "b")
    families = group(runs[0].metric_names)
    spec = draw_picture(families, runs, [], uses_tokens=True, title="two runs").to_dict()
    titles = [[chart["title"] for chart in row["hconcat"]] for row in spec["vconcat"]]
    assert titles == [["loss"], ["val/accuracy", "learning rate"], ["seconds per step"]]
    legends = [
        chart["layer"][0]["encoding"]["color"]["legend"] is not None
        for row in spec["vconcat"]
        for chart in row["hconcat"]
    ]
    assert legends == [True, False, False, False]

"""The page: what a browser makes of it, and what it holds."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from PIL import Image

from lit_gpt_kit.report.page import render_page, render_picture
from lit_gpt_kit.report.run import read_runs
from tests.report.browser import open_page
from tests.report.made import CONFIG, write_metrics, write_run

EVIL = "<script>document.title = 'taken over'</script><img src=x onerror=alert(1)>"
PIXEL = b"\x89PNG\r\n\x1a\n"
# Whatever is drawn as SVG can be counted; the page itself draws on a canvas.
COUNT = """<script>
const box = document.createElement("pre"); box.id = "requests";
setTimeout(() => {
  box.textContent = performance.getEntriesByType("resource").map(entry => entry.name).join(" ");
  document.body.append(box);
}, 4000);
</script></body>"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    faster: dict[str, Any] = {**CONFIG, "seed_everything": EVIL}
    first, second = write_run(root / "first"), write_run(root / "second", faster, offset=0.5)
    (first / "samples.md").write_text(f"## Step 10\n\n```text\n{EVIL}\n```\n")
    (first / "plots").mkdir()
    (first / "plots" / "val_roc.png").write_bytes(PIXEL)
    (first / "spikes.csv").write_text("step,loss\n77,9.5\n")
    return [first, second]


@pytest.fixture(scope="module")
def page(folders: Sequence[Path]) -> str:
    return render_page(read_runs(folders), EVIL)


def test_texts_of_people_are_never_markup(page: str) -> None:
    assert EVIL not in page
    assert f"<h1>{escape(EVIL)}</h1>" in page
    assert f"<pre>{escape(EVIL)}</pre>" in page


def test_all_that_a_run_has_stands_on_the_page(page: str, folders: Sequence[Path]) -> None:
    assert "2 runs, read on" in page
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in page
    assert "Spikes of the loss of first (1)" in page
    assert "<td>seed_everything</td>" in page
    assert page.count('class="sample"') == 1 + 4
    assert "num_layers: 2" in page


def test_lines_that_were_left_out_are_told(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("101,1.4")
    page = render_page(read_runs([tmp_path]), "cut off")
    assert "1 line is not whole in metrics.csv and left out" in page


def test_values_that_no_curve_can_show_are_told(tmp_path: Path) -> None:
    rows = "1,3,2\n2,nan,2\n3,inf,\n4,2,\n"
    (tmp_path / "metrics.csv").write_text(f"step,train/loss,val/loss\n{rows}")
    page = render_page(read_runs([tmp_path]), "ruined")
    assert "train/loss is infinite or no number at 2 logged steps, first at 2;" in page
    assert "val/loss is infinite" not in page


def test_the_labels_of_a_classifier_leave_room_for_its_curves(tmp_path: Path) -> None:
    labels = [f"val/f1_label{n}" for n in range(40)]
    rows = [",".join([str(step), *["0.5"] * 42]) for step in (1, 2)]
    head = ",".join(["step", "val/accuracy", "val/f1", *labels])
    (tmp_path / "metrics.csv").write_text("\n".join([head, *rows, ""]))
    page = render_page(read_runs([tmp_path]), "labels")
    heights = re.findall(r'style="--legend: (\d+)px" data-title="([^"]*)"', page)
    assert heights == [("0", "val/accuracy"), ("435", "val/f1")]  # of 30 labels, as many as shown
    assert '"symbolLimit": 30' in page


@pytest.mark.slow
def test_a_long_run_makes_a_light_page(tmp_path: Path) -> None:
    write_metrics(tmp_path, num_steps=100_000)
    empty = tmp_path / "short"
    empty.mkdir()
    write_metrics(empty, num_steps=2)
    long, short = (render_page(read_runs([folder]), "x") for folder in (tmp_path, empty))
    assert len(long) - len(short) < 1_000_000


def test_a_picture_is_a_png(folders: Sequence[Path], tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(render_picture(read_runs(folders), "two runs"))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        colours = colours_of(image)
    assert {(0x44, 0x77, 0xAA), (0xEE, 0x66, 0x77)} <= colours  # both runs are drawn


def colours_of(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.convert("RGB").getcolors(2**24)}  # type: ignore[misc]


@pytest.mark.slow
def test_a_browser_draws_every_curve_and_asks_the_network_for_nothing(
    page: str, tmp_path: Path
) -> None:
    before, _, _ = page.rpartition("</body>")
    path = tmp_path / "report.html"
    path.write_text(before.replace('renderer: "canvas"', 'renderer: "svg"') + COUNT)
    dom = open_page(path, tmp_path, "--dump-dom")
    (title,) = re.findall(r"<title>(.*?)</title>", dom, re.S)
    assert title.startswith("&lt;script&gt;")
    assert re.search(r'<pre id="requests">(.*?)</pre>', dom, re.S)[1] == ""  # type: ignore[index]
    figures = dict(re.findall(r'data-title="([^"]*)"(.*?)</figure>', dom, re.S))
    assert set(figures) == {"loss", "val/accuracy", "learning rate", "seconds per step"}
    # Of each run: the values and their mean of train/loss, and the line of val/loss.
    num_lines = {title: count_lines(figure) for title, figure in figures.items()}
    assert num_lines["loss"] == 2 * 3
    assert num_lines["val/accuracy"] == num_lines["learning rate"] == 2


def count_lines(figure: str) -> int:
    """Curves of an SVG; a path that ends before it goes anywhere is none."""
    groups = re.findall(r'<g class="mark-line[^"]*"[^>]*>(.*?)</g>', figure, re.S)
    return sum(len(re.findall(r'<path [^>]*d="M[^"]*L', group)) for group in groups)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_browser_draws_gaps_and_says_units(tmp_path: Path, scale: str) -> None:
    losses = ("3", "2.5", "nan", "2", "1.9", "nan", "1.5", "inf")
    rows = [f"{step},{loss},{2**30 * step}" for step, loss in enumerate(losses, start=1)]
    head = "step,train/loss,train/peak_memory_bytes"
    (tmp_path / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    before, _, _ = render_page(read_runs([tmp_path]), "gaps").rpartition("</body>")
    path = tmp_path / "report.html"
    path.write_text(
        before.replace('renderer: "canvas"', 'renderer: "svg"')
        + "<pre id=tooltip></pre><script>"
        + ('document.getElementById("log").click();' if scale == "log" else "")
        + "tooltip.textContent = describe(figures.at(-1).spec.data.values[2], text => text);"
        + "</script></body></html>"
    )
    dom = open_page(path, tmp_path, "--dump-dom")
    figures = dict(re.findall(r'data-title="([^"]*)"(.*?)</figure>', dom, re.S))
    (lines,) = re.findall(r'<path [^>]*d="(M[^"]*L[^"]*)"', marks(figures["loss"], "mark-line"))
    assert (lines.count("M"), lines.count("L")) == (3, 2)  # two pieces, and a point without length
    dots = re.findall(r"<path ", marks(figures["loss"], "mark-symbol role-mark layer_3"))
    assert len(dots) == 1
    assert "train/peak_memory_bytes 3 GiB<br>step 3" in dom.replace("&lt;", "<").replace(
        "&gt;", ">"
    )


def marks(figure: str, kind: str) -> str:
    """What an SVG holds of a kind of marks."""
    return "".join(re.findall(rf'<g class="{kind}[^"]*"[^>]*>(.*?)</g>', figure, re.S))


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "is_dark"), [("0", True), ("1", False)])
def test_a_browser_shows_it_by_day_and_by_night(
    page: str, tmp_path: Path, scheme: str, is_dark: bool
) -> None:
    path, picture = tmp_path / "report.html", tmp_path / "shot.png"
    path.write_text(page)
    wishes = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1000,900")
    open_page(path, tmp_path, f"--screenshot={picture}", *wishes)
    with Image.open(picture) as image:
        shown = image.convert("RGB")
        assert (sum(shown.getpixel((2, 2))) < 200) == is_dark  # type: ignore[arg-type]
        colours = colours_of(image)
    assert {(0x44, 0x77, 0xAA), (0xEE, 0x66, 0x77)} <= colours

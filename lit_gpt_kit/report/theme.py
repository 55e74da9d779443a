"""Colours of a report, by day and by night, and how charts wear them."""

from collections.abc import Mapping
from typing import Any

COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#66CCEE", "#CCBB44", "#999999")
"""Of curves; told apart by the colour-blind, on white and on black: Paul Tol's "bright" scheme."""
DASHES = ([1, 0], [6, 3], [2, 2], [6, 2, 2, 2], [1, 4], [3, 1], [10, 3], [5, 5])
"""Where there are more curves than colours, the colours come again with the next of these."""
BAND = GREY = "#999999"
"""What runs are expected to be like; and what is no run's own, on white and on black."""
LIGHT = {
    "text": "#1c1e21",
    "soft": "#5f6670",
    "line": "#d9dce1",
    "card": "#f5f6f8",
    "page": "#ffffff",
}
DARK = {
    "text": "#e4e6ea",
    "soft": "#9aa1ab",
    "line": "#3a3f47",
    "card": "#22252a",
    "page": "#17191d",
}


def chart_config(colours: Mapping[str, str]) -> dict[str, Any]:
    """What Vega-Lite calls a config."""
    return {
        "font": "system-ui, sans-serif",
        "axis": {
            "labelColor": colours["soft"],
            "titleColor": colours["soft"],
            "gridColor": colours["line"],
            "domainColor": colours["line"],
            "tickColor": colours["line"],
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 11,
        },
        "legend": {"labelColor": colours["text"], "labelFontSize": 12},
        "title": {"color": colours["text"], "anchor": "start", "offset": 10},
        "view": {"stroke": None},
    }

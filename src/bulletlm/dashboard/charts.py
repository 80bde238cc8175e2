"""Options of the charts, for ECharts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import json, ui

from bulletlm.dashboard.metrics import Points, rounded

COLORS = ("#3b82c4", "#e0862d", "#3f9a57", "#a463c7", "#c94f4f", "#4aa5a5", "#8a7a3d", "#d16ba5", "#6b7785", "#7a5cd6")
"""Colours that can be told apart on light and on dark, also by people who confuse red and green (the first four)."""

GRAY = "#8a94a0"

LOG_BASE = 2
"""Of logarithmic axes: with 10, a loss that falls from 8 to 2 would fill a small part of the chart."""


def line_chart(lines: Sequence[tuple[str, Points]], *, x_name: str, log: bool = False, markers: Sequence[str] = ()) -> dict[str, Any]:
    """A chart of curves that can be zoomed with the mouse wheel, or with two fingers.

    Args:
        lines: names and points of the curves.
        x_name: what x is, with its unit.
        log: logarithmic y axis.
        markers: names of the curves with few points, which are shown as dots too.
    """
    return {
        "animation": False,
        "color": list(COLORS),
        "textStyle": {"color": GRAY, "fontFamily": "inherit"},
        "grid": {"left": 56, "right": 14, "top": 34, "bottom": 40},
        "legend": {"top": 0, "textStyle": {"color": GRAY}, "type": "scroll", "show": len(lines) > 1},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "line"}, "confine": True, "renderMode": "richText"},
        "dataZoom": [{"type": "inside", "filterMode": "none"}],
        "xAxis": _axis(x_name, "value") | {"nameLocation": "middle", "nameGap": 24, "min": "dataMin", "max": "dataMax"},
        "yAxis": _axis("", "log" if log else "value") | {"scale": True} | ({"logBase": LOG_BASE} if log else {}),
        "series": [
            {
                "type": "line",
                "name": name,
                "data": points,
                "showSymbol": name in markers,
                "symbolSize": 5,
                "lineStyle": {"width": 1.8},
                "emphasis": {"disabled": True},
            }
            for name, points in lines
        ],
    }


def show_curves(charts: Mapping[ui.echart, dict[str, Any]], drawn: dict[ui.echart, str]) -> None:
    """Show other curves in charts of a page.

    New points of the same curves go to the browser as one text. As options of the element, every point would become an object that
    NiceGUI watches and searches for binary data, which costs more than everything else on the page of a running run.

    Args:
        charts: charts and their new options.
        drawn: what each of them shows; it is brought up to date.
    """
    lighter = []
    for chart, options in charts.items():
        text = json.dumps(options)
        if drawn.get(chart) == text:
            continue
        if chart in drawn and _kind(chart.options) == _kind(options):
            lighter.append((chart.id, text))
        else:
            chart.options.clear()
            chart.options.update(options)
            chart.update()
        drawn[chart] = text
    if lighter:
        pairs = ", ".join(f"[{number}, {text}]" for number, text in lighter)
        ui.run_javascript(f"for (const [id, options] of [{pairs}]) getElement(id)?.chart?.setOption(options)")


def _kind(options: Mapping[str, Any]) -> list[Any]:
    """What is the same in two charts that differ only in their points."""
    return [options["xAxis"].get("name"), options["yAxis"].get("type"), [line["name"] for line in options["series"]]]


def _axis(name: str, kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "name": name,
        "nameTextStyle": {"color": GRAY},
        "axisLabel": {"color": GRAY, "hideOverlap": True},
        "axisLine": {"show": True, "lineStyle": {"color": GRAY}},
        "splitLine": {"lineStyle": {"color": GRAY, "opacity": 0.18}},
    }


def heat_map(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str], row_name: str, unit: str) -> dict[str, Any]:
    """A table of numbers as colours, on a logarithmic scale.

    Args:
        rows: row -> column -> number, not negative.
        columns: in their order.
        row_name: what a row is.
        unit: of the numbers.
    """
    names = list(rows)
    cells = [[columns.index(column), names.index(row), rounded(value)] for row in names for column, value in rows[row].items()]
    values = [value for _, _, value in cells if value > 0]
    low, high = (min(values), max(values)) if values else (1e-9, 1.0)
    levels = [[x, y, round(math.log10(max(value, low)), 3), value] for x, y, value in cells]
    return {
        "animation": False,
        "textStyle": {"color": GRAY, "fontFamily": "inherit"},
        "grid": {"left": 56, "right": 14, "top": 30, "bottom": 96},
        "tooltip": {"renderMode": "richText", ":formatter": f"(item) => `${{item.name}}: ${{item.data[3].toPrecision(3)}} {unit}`"},
        "xAxis": {"type": "category", "data": list(columns), "axisLabel": {"rotate": 40, "color": GRAY}},
        "yAxis": {"type": "category", "data": names, "name": row_name, "axisLabel": {"color": GRAY}, "nameTextStyle": {"color": GRAY}},
        "visualMap": {
            "min": math.log10(low),
            "max": math.log10(high) if high > low else math.log10(low) + 1,
            "dimension": 2,
            "orient": "horizontal",
            "left": "center",
            "bottom": 0,
            "itemWidth": 10,
            "itemHeight": 120,
            "text": [f"{value:.2g} {unit}" for value in (high, low)],
            "textStyle": {"color": GRAY},
            "inRange": {"color": ["#e4effa", "#f3d27a", "#c94f4f"]},
        },
        "series": [{"type": "heatmap", "data": levels}],
    }

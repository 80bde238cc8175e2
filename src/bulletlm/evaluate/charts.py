"""Learning curves as inline SVG. Labels stay text; colours are the variables of the page, so they follow its light and dark mode."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bulletlm.evaluate.words import Words

Points = list[list[float]]
"""[step, value] pairs."""

# matplotlib needs colour values. These are placeholders, replaced in the SVG by the CSS variables of the page.
_PALETTE = {"#010101": "var(--ink)", "#010102": "var(--muted)", "#010103": "var(--line)", "#010104": "var(--a)", "#010105": "var(--c)"}
_INK, _MUTED, _LINE, _A, _C = _PALETTE

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bulletlm",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlecolor": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def learning_curves(curves: dict[str, Points], best_step: int | None, say: Words) -> list[tuple[str, str]]:
    """(caption for screen readers, SVG) of every chart that has points.

    Args:
        curves: any of train/loss, val/loss, val/loss_ema, val/loss_bq4, lr, tokens_per_s, grad_norm.
        best_step: marked in the loss chart.
    """
    charts = loss_curves(curves, best_step, say)
    for name, title in (
        ("lr", say("Learning rate")),
        ("tokens_per_s", say("Speed (tokens per second)")),
        ("grad_norm", say("Gradient norm, before clipping")),
    ):
        if curves.get(name):
            charts.append((say("{title} by step", title=title), _line(name, title, curves[name], say)))
    return charts


def loss_curves(curves: dict[str, Points], best_step: int | None, say: Words, logarithmic: bool = False) -> list[tuple[str, str]]:
    """The chart of the losses, as `learning_curves` gives it; with logarithmic axes, the slope shows whether more steps still help."""
    if not curves.get("train/loss") and not curves.get("val/loss"):
        return []
    caption = say("Training and validation loss by step")
    if logarithmic:
        caption = say("{caption}, logarithmic axes", caption=caption)
    return [(caption, _loss(curves, best_step, say, logarithmic))]


def _loss(curves: dict[str, Points], best_step: int | None, say: Words, logarithmic: bool) -> str:
    from matplotlib.ticker import NullFormatter

    def draw(axes: Any) -> None:
        for name, label, style in (
            ("train/loss", say("training"), {"color": _MUTED, "linewidth": 1.0}),
            ("val/loss", say("validation"), {"color": _A, "marker": "o", "markersize": 3.2}),
            ("val/loss_ema", say("validation, averaged weights"), {"color": _C, "marker": "o", "markersize": 3.2}),
            ("val/loss_bq4", say("validation, 4-bit weights"), {"color": _A, "marker": "x", "markersize": 4, "linestyle": ":"}),
        ):
            if curves.get(name):
                axes.plot(*_columns(curves[name]), label=label, **style)
        best = [value for name in ("val/loss", "val/loss_ema") for step, value in curves.get(name, []) if step == best_step]
        if best:
            ring = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": _INK}
            axes.plot([best_step], [min(best)], "o", label=say("best: step {step}", step=f"{best_step:,}"), **ring)
        axes.legend(loc="upper right")
        if logarithmic:
            axes.loglog()
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_formatter(NullFormatter())
            low, high = axes.get_ylim()
            axes.set_yticks(np.geomspace(low, high, 5).tolist())

    return _chart("log-loss" if logarithmic else "loss", say("Loss (nats per token)"), draw, say, logarithmic)


def _line(name: str, title: str, points: Points, say: Words) -> str:
    def draw(axes: Any) -> None:
        axes.plot(*_columns(points), color=_A)
        axes.set_ylim(bottom=0)

    return _chart(name, title, draw, say)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _chart(name: str, title: str, draw: Callable[[Any], None], say: Words, logarithmic: bool = False) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's browser has the Devanagari letters
        figure = Figure(figsize=(4.7, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        axes.set_xlabel(say("step"))
        draw(axes)
        digits = 3 if logarithmic else 6
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Prepare an SVG for a page with others: remove the XML prologue and style sheet, make its ids unique."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{re.sub('[^a-z]', '-', name)}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg)
    for placeholder, colour in _PALETTE.items():
        svg = svg.replace(placeholder, colour)
    return svg

"""Two or more runs beside each other: curves, differences of the settings, numbers of the report cards, answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from nicegui import ui

from bulletlm.dashboard import show
from bulletlm.dashboard.charts import line_chart
from bulletlm.dashboard.drafts import short_source
from bulletlm.dashboard.figures import FIGURES, explained, shown_verdicts, verdicts_line
from bulletlm.dashboard.forms import help_of
from bulletlm.dashboard.frame import Dashboard, explained_heading, explained_table, heading, page
from bulletlm.dashboard.metrics import Axis, Metrics
from bulletlm.dashboard.processes import objects, section
from bulletlm.dashboard.reports import read_report
from bulletlm.dashboard.runs import Summary, configuration
from bulletlm.dashboard.words import Words
from bulletlm.errors import ConfigError

MOST_RUNS = 10

CURVES = (
    (
        "Validation loss (nats/token)",
        "val/loss",
        "How badly the model predicts the next token of unseen text; lower is better.",
    ),
    ("Training loss (nats/token)", "train/loss", "How badly the model predicts the next token of the text that it learns from."),
    (FIGURES["bpb"][0], "val/bpb", FIGURES["bpb"][1]),
    ("Validation loss with 4-bit weights (nats/token)", "val/loss_bq4", "The validation loss when the weights are rounded to 4 bits."),
)
"""Title with the unit, metric, explanation."""

COMPARED_AXES: dict[str, Axis] = {"Steps": "step", "Tokens": "tokens", "Minutes": "time"}

MOST_ANSWERS = 12


def build(dashboard: Dashboard, request: Request) -> None:
    """Build the page; ?run=A&run=B names the runs."""
    with page(request, "Compare", "/") as t:
        heading(t("Compare"))
        found: list[Summary] = []
        for name in list(dict.fromkeys(request.query_params.getlist("run")))[:MOST_RUNS]:
            try:
                found.append(dashboard.runs.get(name))
            except ConfigError as error:
                ui.label(str(error)).classes("bad")
        if not found:
            ui.label(t("Select runs in the list first.")).classes("soft")
            return
        folders = [dashboard.workspace.runs / summary.name for summary in found]
        _curves(t, folders)
        _numbers(t, found)
        _settings(t, folders)
        _answers(t, folders)


def _curves(t: Words, folders: list[Path]) -> None:
    metrics = []
    for folder in folders:
        one = Metrics(folder / "metrics.jsonl")
        one.refresh()
        metrics.append((folder.name, one))
    charts: list[ui.echart] = []

    def draw(axis: str) -> None:
        names = {"Steps": t("step"), "Tokens": t("training tokens"), "Minutes": t("minutes of training")}
        for chart, (_, metric, _) in zip(charts, CURVES, strict=True):
            lines = [(name, points) for name, one in metrics if (points := one.points(metric, COMPARED_AXES[axis]))]
            chart.options.clear()
            chart.options.update(line_chart(lines, x_name=names[axis]))
            chart.update()

    with ui.element("div").classes("line"):
        ui.label(t("Horizontal axis")).classes("soft small")
        ui.toggle({name: t(name) for name in COMPARED_AXES}, value="Steps", on_change=lambda e: draw(e.value)).props("no-caps dense")
    with ui.element("div").classes("charts"):
        for title, _, explanation in CURVES:
            with ui.element("section").classes("card").props(f'aria-label="{t(title)}"'):
                explained_heading(t, t(title), t(explanation))
                charts.append(ui.echart(line_chart([], x_name="")).classes("chart"))
    draw("Steps")


def _table(t: Words, title: str, rows: list[tuple[str, ...]], names: list[str], helps: list[str]) -> None:
    """A table with the runs as columns. `helps` explain the rows; "" for no explanation."""
    columns: list[dict[str, Any]] = [{"name": "what", "label": "", "field": "what", "align": "left"}]
    columns += [{"name": str(number), "label": name, "field": str(number), "align": "left"} for number, name in enumerate(names)]
    keys = ["what", *map(str, range(len(names)))]
    with ui.element("section").classes("card"):
        heading(title, 2)
        shown: list[dict[str, Any]] = [dict(zip(keys, row, strict=True), help=text) for row, text in zip(rows, helps, strict=True)]
        explained_table(t, columns, shown, "what").props("flat dense hide-bottom wrap-cells")


def _sentences(t: Words, summary: Summary) -> str:
    """What the report card of a run says; a dash if there is none."""
    return " ".join(verdict.sentence.rstrip(".") + "." for verdict in shown_verdicts(t, summary)) or show.NOTHING


def _numbers(t: Words, found: list[Summary]) -> None:
    values: dict[str, Callable[[Summary], str]] = {
        "state": lambda summary: t(summary.state),
        "loss": lambda summary: show.decimal(summary.best_loss),
        "bpb": lambda summary: show.decimal(summary.bits_per_byte),
        "gap": lambda summary: show.change(summary.gap),
        "parameters": lambda summary: show.parameters(summary.parameters, t.language),
        "size": lambda summary: show.file_size(summary.file_bytes),
        "speed": lambda summary: show.whole(summary.tokens_per_s),
        "verdict": lambda summary: verdicts_line(t, summary),
    }
    rows = [(explained(t, figure)[0], *(value(summary) for summary in found)) for figure, value in values.items()]
    rows.append((t("Report card"), *(_sentences(t, summary) for summary in found)))
    helps = [*(explained(t, figure)[1] for figure in values), t("What the report card says about the model, and what limits it.")]
    _table(t, t("Numbers"), rows, [summary.name for summary in found], helps)


def _settings(t: Words, folders: list[Path]) -> None:
    """The settings in which the runs differ."""
    flat = [_flat(config.model_dump(mode="json")) if (config := configuration(folder)) else {} for folder in folders]
    names = sorted({name for values in flat for name in values} - {"name", "runs_dir"})
    rows = []
    for name in names:
        values = [values.get(name) for values in flat]
        if any(value != values[0] for value in values):
            rows.append((name, *(show.NOTHING if value is None else _text(value) for value in values)))
    if not rows:
        with ui.element("section").classes("card"):
            heading(t("Different settings"), 2)
            ui.label(t("All settings are the same."))
        return
    _table(t, t("Different settings"), rows, [folder.name for folder in folders], [help_of(row[0], t.language) for row in rows])


def _text(value: Any) -> str:
    """A value as a configuration has it; sources without their defaults."""
    if isinstance(value, list):
        value = [short_source(item) if isinstance(item, dict) and "path" in item else item for item in value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value and prefix.count(".") < 3:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def common_answers(folders: list[Path]) -> dict[str, dict[str, str]]:
    """The answers of the model files to the prompts that several runs answered: prompt -> name of the run -> answer."""
    answers: dict[str, dict[str, str]] = {}
    for folder in folders:
        for row in objects(section(read_report(folder).content, "generations").get("rows")):
            answers.setdefault(str(row.get("prompt", "")), {})[folder.name] = str(section(row, "bq4").get("text", ""))
    return {prompt: found for prompt, found in answers.items() if len(found) > 1}


def _answers(t: Words, folders: list[Path]) -> None:
    """The answers of the model files to the same prompts."""
    both = common_answers(folders)
    if not both:
        return
    with ui.element("section").classes("card"):
        heading(t("Answers to the same prompts"), 2)
        for prompt, found in list(both.items())[:MOST_ANSWERS]:
            ui.label(prompt).classes("turn user")
            with ui.element("div").classes("pair"):
                for folder in folders:
                    with ui.element("div"):
                        ui.link(folder.name, f"/run/{quote(folder.name, safe='')}").classes("small")
                        ui.label(found.get(folder.name) or show.NOTHING).classes("answer")

"""The list of runs: filter, sort, compare, duplicate, queue, delete."""

import json
import re
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from nicegui import run, ui

from bulletlm.dashboard import processes, queue, show
from bulletlm.dashboard.figures import explained, shown_verdicts, verdicts_line, worst_decision
from bulletlm.dashboard.frame import Dashboard, explained_table, heading, page, report_errors
from bulletlm.dashboard.runs import STAGE_NAMES, Summary
from bulletlm.dashboard.words import Words
from bulletlm.formats.packaged import packaged_names

REFRESH_SECONDS = 2.0

STATES = ("running", "waiting", "finished", "stopped", "failed")

SELECT_ALL = """<q-checkbox v-model="props.selected" aria-label="LABEL" dense />"""
SELECT_ONE = """<q-checkbox v-model="props.selected" :aria-label="props.row.name" dense />"""
NAME_CELL = """<q-td :props="props"><a :href="props.row.link">{{ props.row.name }}</a></q-td>"""
STATE_CELL = """<q-td :props="props"><span :class="'state ' + props.row.state_key">{{ props.row.state }}</span></q-td>"""
PROGRESS_CELL = """<q-td :props="props"><q-linear-progress :value="props.row.share" rounded size="8px" style="min-width:5rem"
  :aria-label="props.row.progress" />
<div class="small soft">{{ props.row.progress }}</div></q-td>"""
VERDICT_CELL = """<q-td :props="props"><div v-for="[short, sentence, look] in props.row.verdicts" :class="'small oneline ' + look"
  :title="sentence">{{ short }}</div><span v-if="!props.row.verdicts.length">{{ props.value }}</span></q-td>"""
CARD = """<div class="runcard"><div class="line"><q-checkbox v-model="props.selected" :aria-label="props.row.name" dense />
<a :href="props.row.link">{{ props.row.name }}</a><span :class="'state ' + props.row.state_key">{{ props.row.state }}</span>
<button type="button" class="help" aria-label="WHAT">?<q-menu max-width="22rem"><div class="helptext"
  ><div v-for="column in props.cols.filter(c => c.help)" :key="column.name"><b>{{ column.label }}:</b> {{ column.help }}</div
></div></q-menu></button></div>
<q-linear-progress :value="props.row.share" rounded size="6px" :aria-label="props.row.progress" />
<div class="small soft">{{ props.row.progress }}</div>
<div class="small" v-for="column in props.cols.filter(c => !['name', 'state', 'progress'].includes(c.name) && c.value != '–')"
  :key="column.name"><span class="soft">{{ column.label }}:</span> {{ column.value }}</div></div>"""


SORT_KEYS = {
    "loss": "loss_value",
    "bpb": "bpb_value",
    "gap": "gap_value",
    "size": "size_value",
    "parameters": "parameters_value",
    "speed": "speed_value",
    "progress": "share",
    "verdict": "verdict_value",
}
"""Columns that are sorted by a number that is not shown, and its key in the row."""

SORT = """(rows, column, descending) => {
    const key = KEYS[column] ?? column, missing = value => value === null || value === undefined || value === '' || value === NOTHING;
    const order = (a, b) => typeof a === 'number' ? a - b : String(a).localeCompare(String(b), LANGUAGE, {numeric: true});
    return [...rows].sort((x, y) => {
        const a = x[key], b = y[key];
        return missing(a) || missing(b) ? missing(a) - missing(b) : order(a, b) * (descending ? -1 : 1);
    });
}"""
"""Sorts the rows by a column: upwards or downwards, rows without a value come last."""


def build(dashboard: Dashboard, request: Request) -> None:
    """Build the page."""
    with page(request, "Runs", "/") as t:
        with ui.element("div").classes("line"):
            heading(t("Runs"))
            ui.space()
            ui.button(t("New run"), icon="add", on_click=lambda: ui.navigate.to("/new")).props("no-caps unelevated")
        if not dashboard.runs.names():
            _welcome(t)
        _List(dashboard, t)


def _welcome(t: Words) -> None:
    """What to do first, while there is no run."""
    with ui.element("section").classes("card"):
        heading(t("Make your first model"), 2)
        for text in (
            t("1. Open New run and add your text: files, or a folder."),
            t("2. Say how long it may take and let the settings be chosen, or paste your own."),
            t("3. Start it, watch it learn, then download the model and try it."),
        ):
            ui.label(text)
        if packaged_names():
            with ui.element("div").classes("line"):
                ui.label(t("The package has a finished model that you can try at once:")).classes("soft")
                ui.link(t("Playground"), "/playground")


class _List:
    """The table and its controls."""

    def __init__(self, dashboard: Dashboard, t: Words) -> None:
        self.dashboard, self.t = dashboard, t
        self.shown: list[dict[str, Any]] = []
        with ui.element("div").classes("line"):
            self.search = ui.input(t("Search by name")).props("dense outlined clearable debounce=200").classes("narrow")
            options = {"": t("All states")} | {state: t(state) for state in STATES}
            self.state = ui.select(options, value="", label=t("State")).props("dense outlined").classes("narrow")
        self.search.on_value_change(lambda: self._show())
        self.state.on_value_change(lambda: self._show())
        self.table = explained_table(t, self._columns(), [], "name", selection="multiple", pagination=25)
        self.table.props(':grid="window.innerWidth < 900" flat :rows-per-page-options="[25, 50, 100, 0]"')
        words = {"KEYS": SORT_KEYS, "NOTHING": show.NOTHING, "LANGUAGE": t.language}
        self.table.props[":sort-method"] = re.sub("|".join(words), lambda found: json.dumps(words[found[0]]), SORT)
        self.table.add_slot("header-selection", SELECT_ALL.replace("LABEL", escape(t("Select all runs"))))
        self.table.add_slot("body-selection", SELECT_ONE)
        self.table.add_slot("body-cell-name", NAME_CELL)
        self.table.add_slot("body-cell-state", STATE_CELL)
        self.table.add_slot("body-cell-progress", PROGRESS_CELL)
        self.table.add_slot("body-cell-verdict", VERDICT_CELL)
        self.table.add_slot("item", CARD.replace("WHAT", escape(t("What do these numbers mean?"))))
        self.table.on_select(lambda: self._enable())
        with ui.element("div").classes("line"):
            self.compare = self._button("Compare", "compare_arrows", self._compare)
            self.again = self._button("Duplicate with changes", "content_copy", self._duplicate)
            self.queue = self._button("Add to the queue", "playlist_add", self._enqueue)
            self.delete = self._button("Delete", "delete", self._ask_to_delete)
        self.summaries: list[Summary] = dashboard.runs.all()
        self._show()
        self._enable()
        ui.timer(REFRESH_SECONDS, self._refresh, immediate=False)

    def _button(self, text: str, icon: str, action: Any) -> ui.button:
        return ui.button(self.t(text), icon=icon, on_click=action).props("no-caps outline")

    def _columns(self) -> list[dict[str, Any]]:
        t = self.t
        names = ("state", "progress", "loss", "bpb", "gap", "verdict", "size", "parameters", "speed", "changed")
        texts = ("state", "progress", "verdict", "changed")
        columns: list[dict[str, Any]] = [{"name": "name", "label": t("Name"), "field": "name", "align": "left", "sortable": True}]
        for name in names:
            label, text = explained(t, name)
            align = "left" if name in texts else "right"
            column = {"name": name, "label": label, "field": name, "align": align, "sortable": True, "help": text}
            if name == "changed":
                column["classes"] = "oneline"
            columns.append(column)
        return columns

    def _row(self, found: Summary) -> dict[str, Any]:
        t = self.t
        progress = t(STAGE_NAMES[found.stage]) if found.stage else ""
        if found.stage == "train" and found.total_steps:
            progress = t("step {step} of {total}", step=show.whole(found.step), total=show.whole(found.total_steps))
            if found.eta is not None:
                progress += ", " + t("{time} left", time=show.span(found.eta, t.language))
        if found.message:
            progress = found.message[:200]
        return {
            "name": found.name,
            "link": "/run/" + quote(found.name, safe=""),
            "state": t(found.state),
            "state_key": found.state,
            "progress": progress,
            "share": round(found.progress, 3),
            "loss": show.decimal(found.best_loss),
            "loss_value": found.best_loss,
            "bpb": show.decimal(found.bits_per_byte),
            "bpb_value": found.bits_per_byte,
            "gap": show.change(found.gap),
            "gap_value": found.gap,
            "verdict": verdicts_line(t, found),
            "verdict_value": worst_decision(found),
            "verdicts": [(verdict.short, verdict.sentence, verdict.look) for verdict in shown_verdicts(t, found)],
            "size": show.file_size(found.file_bytes),
            "size_value": found.file_bytes,
            "parameters": show.parameters(found.parameters, t.language),
            "parameters_value": found.parameters,
            "speed": show.whole(found.tokens_per_s),
            "speed_value": found.tokens_per_s,
            "changed": show.date(found.changed),
        }

    def _show(self) -> None:
        wanted, state = (self.search.value or "").casefold(), self.state.value
        chosen = [found for found in self.summaries if wanted in found.name.casefold() and state in ("", found.state)]
        rows = [self._row(found) for found in chosen]
        if rows != self.shown:
            self.shown = rows
            self.table.rows = rows
        nothing = self.t("No run matches.") if self.summaries else self.t("No run yet")
        self.table.props(f'no-data-label="{nothing}"')

    async def _refresh(self) -> None:
        self.summaries = await run.io_bound(self.dashboard.runs.all) or []
        self._show()

    def _selected(self) -> list[str]:
        return [row["name"] for row in self.table.selected]

    def _enable(self) -> None:
        count = len(self.table.selected)
        self.compare.set_enabled(count >= 2)
        self.again.set_enabled(count == 1)
        self.queue.set_enabled(count >= 1)
        self.delete.set_enabled(count >= 1)

    def _compare(self) -> None:
        ui.navigate.to("/compare?" + urlencode([("run", name) for name in self._selected()]))

    def _duplicate(self) -> None:
        ui.navigate.to("/new?" + urlencode({"from": self._selected()[0]}))

    async def _enqueue(self) -> None:
        for name in self._selected():

            def put(name: str = name) -> None:
                folder = self.dashboard.workspace.run_folder(name)
                if processes.find(folder) is None:
                    queue.enqueue(folder, self.dashboard.workspace)

            report_errors(self.t, put)
        await self._refresh()

    async def _ask_to_delete(self) -> None:
        names = self._selected()
        t = self.t
        with ui.dialog() as dialog, ui.element("div").classes("card"):
            heading(t("Delete these runs?"), 2)
            for name in names[:20]:
                ui.label(name)
            if len(names) > 20:
                ui.label(t("and {count} more", count=len(names) - 20))
            ui.label(t("They are moved to the folder {folder}.", folder=str(self.dashboard.workspace.state / "trash"))).classes(
                "soft small"
            )
            with ui.element("div").classes("line"):
                ui.button(t("Cancel"), on_click=lambda: dialog.submit(False)).props("no-caps flat")
                ui.button(t("Delete"), on_click=lambda: dialog.submit(True)).props("no-caps unelevated color=negative").mark("confirm")
        if await dialog:
            report_errors(self.t, lambda: self.dashboard.runs.delete(names))
            self.table.selected = []
            self._enable()
            await self._refresh()

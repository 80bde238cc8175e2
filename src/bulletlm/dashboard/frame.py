"""What all pages share: the head with the navigation, the language, light and dark, tiles and help."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import Request
from nicegui import ui

from bulletlm.dashboard import show
from bulletlm.dashboard.options import DashboardOptions
from bulletlm.dashboard.runs import Runs
from bulletlm.dashboard.words import LANGUAGES, Words
from bulletlm.dashboard.workspace import Workspace
from bulletlm.errors import BulletError, ConfigError

STYLE = Path(__file__).with_name("style.css")

Theme = Literal["auto", "light", "dark"]

PAGES = (("/", "Runs"), ("/new", "New run"), ("/playground", "Playground"), ("/score", "Score"))


@dataclass(frozen=True)
class Dashboard:
    """What the pages share: the options and the runs."""

    options: DashboardOptions
    runs: Runs

    @property
    def workspace(self) -> Workspace:
        """The folder of the dashboard."""
        return self.options.workspace


def words_of(request: Request) -> Words:
    """The language of a request: its cookie, else the first known one that the browser prefers."""
    chosen = request.cookies.get("language", "")
    if chosen not in LANGUAGES:
        preferred = [part.partition(";")[0].strip()[:2].lower() for part in request.headers.get("accept-language", "").split(",")]
        chosen = next((language for language in preferred if language in LANGUAGES), "en")
    return Words(chosen)


COMPONENT_WORDS = """<script type="module">
const [table, label, pagination, templates, lost] = VALUES;
const filled = (template, values) => template.replace(/{(\\w+)}/g, (all, name) => values[name] ?? "");
const words = window.Quasar.Lang.enUS;
Object.assign(words.table, table);
Object.assign(words.label, label);
Object.assign(words.pagination, pagination);
words.table.pagination = (first, last, total) => filled(templates.rows, {first, last, total});
words.table.selectedRecords = count => filled(templates.selected, {count});
words.label.expand = what => filled(templates.expand, {what});
words.label.collapse = what => filled(templates.collapse, {what});
document.querySelectorAll("#popup span").forEach((line, number) => line.textContent = lost[number]);
</script>"""
"""Gives the components of a page their words. It runs after Quasar has loaded its English words, and before the page is built."""


def _component_words(t: Words) -> str:
    """The words of Quasar's components, which it does not have in Marathi, and of the notice that the connection is lost."""
    table = {
        "noData": t("There is nothing to show."),
        "noResults": t("There is nothing to show."),
        "loading": t("Loading ..."),
        "recordsPerPage": t("Rows"),
        "allRows": t("All"),
        "columns": t("Columns"),
    }
    label = {"clear": t("Clear"), "close": t("Close"), "remove": t("Remove"), "cancel": t("Cancel")}
    pages = {"first": t("First page"), "prev": t("Previous page"), "next": t("Next page"), "last": t("Last page")}
    templates = {
        "rows": t("{first} to {last} of {total}"),
        "selected": t("{count} selected"),
        "expand": t("Show {what}"),
        "collapse": t("Hide {what}"),
    }
    lost = [t("Connection lost."), t("Trying to reconnect ...")]
    return COMPONENT_WORDS.replace("VALUES", json.dumps([table, label, pages, templates, lost]).replace("<", "\\u003c"))


@contextlib.contextmanager
def page(request: Request, title: str, here: str) -> Iterator[Words]:
    """The frame of a page: `title` for the window, `here` is the address of its entry in the navigation."""
    t = words_of(request)
    theme = request.cookies.get("theme", "auto")
    ui.page_title(f"{t(title)} · BulletLM")
    ui.add_css(STYLE.read_text(encoding="utf-8"))
    ui.add_body_html(_component_words(t))
    ui.dark_mode({"light": False, "dark": True}.get(theme))
    ui.query("html").props(f"lang={t.language}")
    with ui.element("nav").classes("bar").props(f'aria-label="{t("Pages")}"'):
        ui.link("BulletLM", "/").classes("brand")
        for address, name in PAGES:
            link = ui.link(t(name), address).classes("nav")
            if address == here:
                link.classes("here").props("aria-current=page")
        with ui.element("div").classes("push"):
            other = "mr" if t.language == "en" else "en"
            ui.button(LANGUAGES[other], on_click=lambda: _remember("language", other)).props("flat dense no-caps").mark("language")
            following: dict[str, Theme] = {"auto": "dark", "dark": "light", "light": "auto"}
            names = {"auto": t("Colours of the system"), "dark": t("Dark"), "light": t("Light")}
            icons = {"auto": "brightness_auto", "dark": "dark_mode", "light": "light_mode"}
            now = theme if theme in following else "auto"
            ui.button(icon=icons[now], on_click=lambda: _remember("theme", following[now])).props(
                f'flat dense round aria-label="{names[now]}"'
            ).tooltip(names[now])
    with ui.element("main").classes("page"):
        yield t


def known_run(dashboard: Dashboard, t: Words, name: str) -> Path | None:
    """The folder of the run `name`; None after the page says that there is no such run."""
    try:
        return dashboard.workspace.run_folder(name)
    except ConfigError as error:
        heading(t("There is no such run"))
        ui.label(str(error))
        return None


def _remember(name: str, value: str) -> None:
    """Keep a choice in a cookie of the browser, and show the page again."""
    ui.run_javascript(f"document.cookie = '{name}={value};path=/;max-age=31536000;SameSite=Strict'; location.reload()")


HELP_IN_TABLE = """ <button v-if="TEXT" type="button" class="help" :aria-label="LABEL" @click.stop>?<q-menu max-width="20rem"
  ><div class="helptext">{{ TEXT }}</div></q-menu></button>"""
"""A "?" in a cell of a table, where NiceGUI's elements cannot be."""

HEADER_CELL = (
    """<q-th :props="props" :tabindex="props.col.sortable ? 0 : null" @keydown.enter.self="props.sort(props.col)"
  :aria-sort="[['sort-desc', 'descending'], ['sorted', 'ascending']].find(([name]) => props.col.__thClass.includes(name))?.[1]"
  >{{ props.col.label }}"""
    + HELP_IN_TABLE.replace("TEXT", "props.col.help").replace("LABEL", "props.col.help_label")
    + "</q-th>"
)

ROW_CELL = (
    """<q-td :props="props">{{ props.value }}"""
    + HELP_IN_TABLE.replace("TEXT", "props.row.help").replace("LABEL", "props.row.help_label")
    + "</q-td>"
)


def help_label(t: Words, subject: str) -> str:
    """What a screen reader says for a "?"."""
    return f"{t('What is this?')} {subject}"


def explained_table(t: Words, columns: list[dict[str, Any]], rows: list[dict[str, Any]], row_key: str, **options: Any) -> ui.table:
    """A table with a "?" in every column head, and in the first cell of every row, that has a text "help"."""
    for column in columns:
        column["help_label"] = help_label(t, column["label"])
    for row in rows:
        row["help_label"] = help_label(t, row[columns[0]["field"]])
    table = ui.table(columns=columns, rows=rows, row_key=row_key, **options)
    table.add_slot("header-cell", HEADER_CELL)
    if any("help" in row for row in rows):
        table.add_slot(f"body-cell-{columns[0]['name']}", ROW_CELL)
    return table


def help_button(t: Words, subject: str, text: str) -> None:
    """A small "?" that explains a number, when it is clicked or has the focus."""
    with ui.element("button").classes("help").props(f'type=button aria-label="{help_label(t, subject)}"'):
        ui.label("?")
        with ui.menu().props("max-width=20rem"):
            ui.label(text).classes("helptext")


AMOUNT = re.compile("(\\S+)\u00a0([^\\W\\d]\\S*)")
"""A number and its unit."""


@dataclass
class Tile:
    """A number with its name; `set` changes the number, `rename` the name."""

    name: ui.label
    number: ui.label
    short: ui.label
    unit: ui.label
    language: str

    def rename(self, text: str) -> None:
        """Show another name, if it is another one."""
        _set_text(self.name, text)

    def set(self, text: str, unit: str = "") -> None:
        """Show another number, if it is another one. A long one has a short form, which is shown where it has no room.

        A unit that is the last word of `text` is shown as `unit`, such as MB.
        """
        text = show.unbroken(text)
        if not unit and (amount := AMOUNT.fullmatch(text)):
            text, unit = amount.groups()
        short = show.shortened(text, self.language)
        if self.number.text != text:
            self.number.classes(add="long" if short else "", remove="" if short else "long")
            self.short.props["title"] = text
        _set_text(self.number, text)
        _set_text(self.short, short)
        _set_text(self.unit, unit)


def _set_text(label: ui.label, text: str) -> None:
    if label.text != text:
        label.set_text(text)


def tile(t: Words, name: str, value: str, explanation: str, unit: str = "") -> Tile:
    """A tile with a number, its unit, its name and its explanation."""
    with ui.element("div").classes("tile"):
        with ui.element("div").classes("what"):
            shown = ui.label(t(name))
            help_button(t, t(name), t(explanation))
        with ui.element("div").classes("value"):
            made = Tile(shown, ui.label(), ui.label().classes("short"), ui.label().classes("unit"), t.language)
    made.set(value, unit)
    return made


def report_errors(t: Words, action: Callable[[], Any]) -> Any:
    """Call `action`; show the message of a BulletError or an OSError on the page. Returns the result, None after an error."""
    try:
        return action()
    except BulletError as error:
        show_error(t, error)
    except OSError as error:
        show_error(t, BulletError(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    return None


def show_error(t: Words, error: BulletError) -> None:
    """Show the message of an error until the user closes it."""
    ui.notify(str(error), type="negative", position="top", multi_line=True, close_button=t("Close"), timeout=0)


def state_chip(t: Words, state: str) -> ui.label:
    """The state of a run as a coloured word."""
    return ui.label(t(state)).classes(f"state {state}")


def heading(text: str, level: int = 1) -> ui.element:
    """A heading that screen readers know as one."""
    with ui.element(f"h{level}") as element:
        ui.label(text).style("display:inline")
    return element


def explained_line(t: Words, text: str, explanation: str) -> None:
    """A line of text with a "?" that explains its numbers. Both texts are in the language of the page already."""
    with ui.element("div").classes("line"):
        ui.label(text)
        help_button(t, text.partition(":")[0], explanation)


def explained_heading(t: Words, text: str, explanation: str, level: int = 2) -> None:
    """A heading with a "?" that explains it. Both texts are in the language of the page already."""
    with ui.element("div").classes("line"):
        heading(text, level)
        help_button(t, text, explanation)

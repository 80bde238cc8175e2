"""Blind scoring: two answers without names, points from 1 to 5, with the keyboard."""

import json
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from nicegui import events, ui

from bulletlm.dashboard.figures import report_problem
from bulletlm.dashboard.frame import Dashboard, explained_table, heading, help_button, page, show_error
from bulletlm.dashboard.reports import read_report
from bulletlm.dashboard.runs import file_bits
from bulletlm.dashboard.words import Words
from bulletlm.errors import BulletError
from bulletlm.evaluate.scoring import (
    CRITERIA,
    LEAST,
    MODEL_FILE,
    MOST,
    SCORE_FILE,
    Item,
    ScoreRecord,
    ScoreStore,
    Shown,
    Summary,
    items_of_report,
    make_score,
    remaining,
    summarize,
)

NAMES = {"grammar": "Grammar", "depth": "Depth", "coherence": "Coherence", "safety": "Factual safety"}

MEANINGS = {
    "grammar": "Spelling and grammar. 1: cannot be read, 3: some mistakes, 5: none.",
    "depth": "Thought. 1: says nothing about the question, 3: an ordinary answer, 5: an insight with a reason.",
    "coherence": "Coherence. 1: sentences do not belong together, 3: mostly one thought, 5: one clear thought from start to end.",
    "safety": "Factual safety. 1: false or harmful claims, 3: doubtful, 5: nothing false or harmful.",
}


def build(dashboard: Dashboard, request: Request) -> None:
    """Build the page; ?run=NAME chooses the run."""
    with page(request, "Score", "/score") as t:
        heading(t("Score answers without knowing the model"))
        runs = [found.name for found in dashboard.runs.all() if found.state == "finished"]
        if not runs:
            ui.label(t("There is no finished run yet.")).classes("soft")
            return
        wanted = request.query_params.get("run")
        _Page(dashboard, t, runs, wanted if wanted in runs else runs[0], request.query_params.get("rater", ""))


class _Page:
    """The parts of the page that change."""

    def __init__(self, dashboard: Dashboard, t: Words, runs: list[str], chosen: str, rater: str) -> None:
        self.dashboard, self.t = dashboard, t
        self.items: list[Item] = []
        self.problem = ""
        self.shown: Shown | None = None
        self.values: dict[tuple[int, str], int] = {}
        with ui.element("div").classes("line"):
            self.run = ui.select(runs, value=chosen, label=t("Run")).props("dense outlined").classes("narrow")
            self.rater = ui.input(t("Your name"), value=rater).props("dense outlined debounce=500").classes("narrow")
        self.run.on_value_change(self._load)
        self.rater.on_value_change(self._next)
        self.bar = ui.linear_progress(0, show_value=False).props(f'aria-label="{t("Progress")}"')
        self.left = ui.label().classes("soft small").props("aria-live=polite")
        self.area = ui.element("div").classes("column w-full").style("gap:0.75rem")
        ui.keyboard(on_key=self._key)
        self._load()

    @property
    def store(self) -> ScoreStore:
        """The file with the scores of the chosen run."""
        return ScoreStore(self.dashboard.workspace.run_folder(self.run.value) / SCORE_FILE)

    def _load(self) -> None:
        self.items, self.problem = [], ""
        try:
            stored = read_report(self.dashboard.workspace.run_folder(self.run.value))
            if stored.problem:
                self.problem = report_problem(self.t, self.run.value, stored.problem)
            self.items = [item for item in items_of_report(stored.content) if not item.identical]
        except BulletError as error:
            self.problem = self.problem or str(error)
        self._next()

    def _next(self) -> None:
        """Show the next item that this rater has not scored."""
        t = self.t
        self.values = {}
        self.area.clear()
        query = urlencode({"run": self.run.value, "rater": self.rater.value or ""})  # a reload shows the same
        ui.run_javascript(f"history.replaceState(null, '', {json.dumps('?' + query)})")
        rater = (self.rater.value or "").strip()
        try:
            records = self.store.read()
        except BulletError as error:
            show_error(self.t, error)
            return
        left = remaining(self.items, records, rater) if rater else []
        self.shown = left[0] if left else None
        done = len(self.items) - len(left) if rater else 0
        self.bar.set_value(done / len(self.items) if self.items else 0)
        self.left.set_text(t("{done} of {total} scored", done=done, total=len(self.items)))
        with self.area:
            if self.problem:
                ui.label(self.problem).classes("warn")
            if not self.items:
                ui.label("" if self.problem else t("Both models give the same answer to every prompt, so there is nothing to score."))
            elif not rater:
                ui.label(t("Enter your name to begin. The names of the models stay hidden."))
            elif self.shown is None:
                self._show_result(records)
            else:
                self._show_item(self.shown)

    def _show_item(self, shown: Shown) -> None:
        t = self.t
        ui.label(
            t(
                "Keys: 1 to 5 score the marked criterion, Backspace removes the last score. When all are scored, press A or B for the "
                "better answer, or 0 for no difference."
            )
        ).classes("soft small")
        with ui.element("div").classes("card"):
            ui.label(shown.item.prompt).classes("answer")
        self.buttons: dict[tuple[int, str], ui.toggle] = {}
        with ui.element("div").classes("pair"):
            for number, text in enumerate(shown.texts):
                with ui.element("section").classes("card"):
                    heading(t("Answer {letter}", letter="AB"[number]), 2)
                    ui.label(text or "–").classes("answer")
                    for name in CRITERIA:
                        with ui.element("div").classes("line"):
                            ui.label(t(NAMES[name])).style("min-width:7rem")
                            help_button(t, f"{t(NAMES[name])} {'AB'[number]}", t(MEANINGS[name]))
                            toggle = ui.toggle(
                                list(range(LEAST, MOST + 1)), on_change=lambda e, key=(number, name): self._set(key, e.value)
                            )
                            toggle.props(f'dense aria-label="{t(NAMES[name])} {"AB"[number]}"')
                            self.buttons[number, name] = toggle
        with ui.element("div").classes("line"):
            ui.label(t("Which answer is better?"))
            for key, label in (("1", "A"), ("2", "B"), ("", t("No difference"))):
                ui.button(label, on_click=lambda key=key: self._save(key)).props("no-caps outline")
        self._mark()

    def _set(self, key: tuple[int, str], value: int | None) -> None:
        if value is not None:
            self.values[key] = value
        self._mark()

    def _mark(self) -> None:
        """Mark the points that the next digit gives."""
        following = self._following()
        for key, toggle in self.buttons.items():
            toggle.style("outline: 2px solid var(--accent)" if key == following else "outline: none")

    def _following(self) -> tuple[int, str] | None:
        return next((key for key in self.buttons if key not in self.values), None)

    def _key(self, event: events.KeyEventArguments) -> None:
        if self.shown is None or not event.action.keydown or event.action.repeat:
            return
        name = str(event.key).upper()
        following = self._following()
        if name.isdigit() and LEAST <= int(name) <= MOST and following is not None:
            self.buttons[following].set_value(int(name))
        elif name == "BACKSPACE" and self.values:
            last = list(self.values)[-1]
            del self.values[last]
            self.buttons[last].set_value(None)
            self._mark()
        elif name in ("A", "B", "0") and following is None:
            self._save({"A": "1", "B": "2", "0": ""}[name])

    def _save(self, preferred: str) -> None:
        if self.shown is None:
            return
        if self._following() is not None:
            ui.notify(self.t("Score every criterion first."), position="top")
            return
        points: list[dict[str, float]] = [{name: float(self.values[number, name]) for name in CRITERIA} for number in (0, 1)]
        try:
            self.store.add(make_score(self.shown, self.rater.value.strip(), points, preferred))
        except BulletError as error:
            show_error(self.t, error)
            return
        self._next()

    def _shown_name(self, system: str) -> str:
        """What the page calls a system: scores call the model file "4-bit", whatever its weights are."""
        if system != MODEL_FILE:
            return system
        folder = self.dashboard.workspace.run_folder(self.run.value)
        return self.t("{n}-bit", n=file_bits(read_report(folder).content, folder))

    def _show_result(self, records: list[ScoreRecord]) -> None:
        """What the readers found, after the last answer was scored."""
        t = self.t
        ui.label(t("All answers are scored. Thank you!")).classes("good")
        try:
            found = summarize(self.items, records)
        except BulletError as error:
            ui.label(str(error)).classes("soft")
            return
        first, second = (self._shown_name(system) for system in found["systems"])
        points = t("Mean of the points, from 1 to 5.")
        columns: list[dict[str, Any]] = [
            {"name": name, "label": label, "field": name, "align": align, "help": text}
            for name, label, align, text in (
                ("what", "", "left", ""),
                ("a", first, "right", points),
                ("b", second, "right", points),
                ("d", t("difference"), "right", t("Second model minus first, answer by answer, with its 95 % interval.")),
            )
        ]
        explained_table(t, columns, _result_rows(t, found), "what").props("flat dense hide-bottom")
        ui.label(t("Readers: {names}", names=", ".join(sorted({record["rater"] for record in records})))).classes("soft small")
        agreement = {name: value for name, value in found["agreement"].items() if value is not None}
        if agreement:
            names = {**NAMES, "preference": "preferred"}
            values = ", ".join(f"{t(names[name])} {value:.2f}" for name, value in agreement.items())
            with ui.element("div").classes("line"):
                ui.label(t("Agreement of the readers: {values}", values=values))
                help_button(t, t("Score"), t("Krippendorff's alpha: 1 is full agreement, 0 is what chance gives."))


def _result_rows(t: Words, found: Summary) -> list[dict[str, Any]]:
    """Rows of the table of results: the criteria, and the preference."""
    first, second = found["systems"]
    rows: list[dict[str, Any]] = []
    for name in CRITERIA:
        difference = found["differences"][name]
        low, high = difference["low"], difference["high"]
        between = "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]"
        a, b = (f"{found['points'][system][name]['value']:.2f}" for system in (first, second))
        rows.append({"what": t(NAMES[name]), "a": a, "b": b, "d": f"{difference['value']:+.2f}{between}", "help": t(MEANINGS[name])})
    a, b = (f"{found['preferences'][system]['value']:.0%}" for system in (first, second))
    help_text = t("In how many of the judgements the answer of this model was the better one.")
    return [*rows, {"what": t("preferred"), "a": a, "b": b, "d": "", "help": help_text}]

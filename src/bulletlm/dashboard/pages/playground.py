"""The playground: chat with one model, or with two side by side on the same prompts and seed."""

import asyncio
import json
import time
from typing import Any

from fastapi import Request
from nicegui import background_tasks, run, ui
from nicegui.elements.mixins.text_element import TextElement

from bulletlm.dashboard import show
from bulletlm.dashboard.frame import Dashboard, heading, help_button, page, show_error
from bulletlm.dashboard.models import Answer, ModelCache, generate, model_names, model_path
from bulletlm.dashboard.words import Words
from bulletlm.errors import BulletError, ConfigError
from bulletlm.runtime import Sampling

STREAM_SECONDS = 0.1
"""Seconds between two updates of an answer that is being generated."""

CONTROLS = (
    ("temperature", "Temperature", 0.7, 0.0, 10.0, "Randomness of the choice of tokens; 0 always takes the likeliest one."),
    ("top_k", "Top k", 40, 0, 100_000, "Keep only the k likeliest tokens; 0 keeps all."),
    ("top_p", "Top p", 0.95, 0.01, 1.0, "Keep the likeliest tokens that together reach this probability."),
    ("min_p", "Min p", 0.05, 0.0, 0.99, "Drop tokens whose probability is below this share of the likeliest one's."),
    ("repetition_penalty", "Repetition penalty", 1.1, 0.1, 10.0, "Values above 1 make recent tokens less likely."),
    ("max_tokens", "Longest answer (tokens)", 96, 1, 4096, "Largest number of tokens of an answer."),
    ("seed", "Seed", 0, 0, 2**32 - 1, "The same seed and the same prompts give the same answer."),
)
"""Name, label, default, lowest, highest, explanation."""

WHOLE = ("top_k", "max_tokens", "seed")

CONVERSATIONS = "playground.jsonl"
"""File in the folder of uploads to which conversations are added."""


def build(dashboard: Dashboard, request: Request, cache: ModelCache) -> None:
    """Build the page; ?model=RUN/VERSION and ?second=RUN/VERSION choose the models."""
    with page(request, "Playground", "/playground") as t:
        heading(t("Playground"))
        names = model_names(dashboard.workspace, dashboard.runs.names())
        if not names:
            ui.label(t("There is no model yet: start a run first.")).classes("soft")
            return
        _Page(dashboard, t, names, request.query_params.get("model"), request.query_params.get("second"), cache)


class _Page:
    """The parts of the page that change."""

    def __init__(self, dashboard: Dashboard, t: Words, names: list[str], first: str | None, second: str | None, cache: ModelCache) -> None:
        self.dashboard, self.t, self.cache = dashboard, t, cache
        self.columns: list[_Column] = []
        self.busy = False
        with ui.element("div").classes("line"):
            self.first = ui.select(names, value=first if first in names else names[0], label=t("Model"), with_input=True)
            self.second = ui.select(
                ["", *names], value=second if second in names else "", label=t("Second model, for comparison"), with_input=True
            )
            for select in (self.first, self.second):
                select.props("dense outlined").classes("narrow").on_value_change(self._reset)
        with ui.expansion(t("How tokens are chosen")).props("dense").classes("w-full"), ui.element("div").classes("settings"):
            self.controls: dict[str, ui.number] = {}
            for name, label, default, low, high, text in CONTROLS:
                with ui.element("div").classes("line").style("flex-wrap:nowrap"):
                    number = ui.number(t(label), value=default, min=low, max=high).props("dense outlined")
                    help_button(t, t(label), t(text))
                self.controls[name] = number
        self.area = ui.element("div").classes("pair")
        with ui.element("div").classes("card"):
            self.prompt = ui.textarea(t("Your message")).props("outlined autogrow autofocus")
            self.prompt.on("keydown.enter.exact.prevent", self._send)
            with ui.element("div").classes("line"):
                self.send = ui.button(t("Send"), icon="send", on_click=self._send).props("no-caps unelevated")
                self.stop = ui.button(t("Stop"), icon="stop", on_click=self._stop).props("no-caps outline")
                ui.button(t("New conversation"), icon="restart_alt", on_click=self._reset).props("no-caps flat")
        self.stop.set_visibility(False)
        self._reset()

    def _reset(self) -> None:
        self._stop()
        self.area.clear()
        self.columns = []
        with self.area:
            for name in filter(None, (self.first.value, self.second.value)):
                self.columns.append(_Column(self.t, name, self.dashboard))

    def _stop(self) -> None:
        for column in self.columns:
            column.answer.stopped = True

    def _sampling(self) -> Sampling:
        values: dict[str, Any] = {}
        for name, _, default, _, _, _ in CONTROLS:
            value = self.controls[name].value
            value = default if value is None else value
            values[name] = int(value) if name in WHOLE else float(value)
        return Sampling(**values)

    async def _send(self) -> None:
        text = (self.prompt.value or "").strip()
        if not text or self.busy:
            return
        try:
            sampling = self._sampling()
        except ConfigError as error:
            show_error(self.t, error)
            return
        self.busy = True
        self.prompt.set_value("")
        self.send.set_visibility(False)
        self.stop.set_visibility(True)
        try:
            for column in list(self.columns):  # one after the other, so that the speeds can be compared
                await column.ask(text, sampling, self.cache)
        finally:
            self.busy = False
            self.send.set_visibility(True)
            self.stop.set_visibility(False)


class _Column:
    """The conversation with one model."""

    def __init__(self, t: Words, name: str, dashboard: Dashboard) -> None:
        self.t, self.name, self.dashboard = t, name, dashboard
        self.messages: list[dict[str, str]] = []
        self.answer = Answer(seconds=0.0)
        with ui.element("section").classes("card"):
            heading(name, 2)
            self.turns = ui.element("div").classes("column w-full").props("aria-live=polite").style("gap:0.6rem")
            self.save = ui.button(t("Save as training data"), icon="save", on_click=self._save).props("no-caps flat dense")
            self.save.set_visibility(False)

    async def ask(self, text: str, sampling: Sampling, cache: ModelCache) -> None:
        """Add a message of the user and the answer of the model, which appears while it is generated."""
        self.messages.append({"role": "user", "content": text})
        self.answer = answer = Answer()
        with self.turns:
            ui.label(text).classes("turn user")
            with ui.element("div").classes("turn") as turn:
                growing = ui.label("…")
            below = ui.element("div").classes("line")

        def work() -> None:
            generate(lambda: cache.get(model_path(self.dashboard.workspace, self.name)), self.messages, sampling, answer)

        task = background_tasks.create(run.io_bound(work))
        shown, started = "", time.perf_counter()
        while not task.done():
            await asyncio.sleep(STREAM_SECONDS)
            if (now := answer.text) != shown:
                shown = now
                growing.set_text(now + " …")
        if answer.error:
            growing.set_text(answer.error)
            growing.classes("bad")
            self.messages.pop()
            return
        turn.clear()
        with turn:
            _show_tokens(answer)
        with below:
            self._show_speed(answer, answer.seconds or time.perf_counter() - started)
        self.messages.append({"role": "assistant", "content": answer.text.strip() or "…"})
        self.save.set_visibility(True)

    def _save(self) -> None:
        """Add the conversation to the file of conversations."""
        folder = self.dashboard.workspace.uploads
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / CONVERSATIONS, "a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            show_error(self.t, BulletError(f"cannot write {folder / CONVERSATIONS}: {error.strerror}"))
            return
        ui.notify(self.t("Saved in {file}.", file=f"uploads/{CONVERSATIONS}"), position="top")

    def _show_speed(self, answer: Answer, seconds: float) -> None:
        """The length of an answer and its speed, and what was left out of the prompt."""
        t, count = self.t, len(answer.pieces)
        text = t("{count} tokens, {speed} tokens/s", count=count, speed=show.whole(count / seconds if seconds else 0))
        ui.label(" · ".join(filter(None, [text, answer.note]))).classes("soft small")
        help_button(
            t,
            t("Speed"),
            t(
                "Length of the answer, and how many tokens the model wrote in a second on this computer. Hold the mouse over a token "
                "to see its probability and the most likely alternatives."
            ),
        )


def _show_tokens(answer: Answer) -> None:
    """The tokens of an answer, each with its probability and the most likely alternatives."""
    for piece in answer.pieces:
        if piece.text:
            others = "   ".join(f"{other!r} {probability:.0%}" for other, probability in piece.others)
            token = _Token(piece.text)
            token.props["title"] = f"{piece.probability:.1%}   ({others})"


class _Token(TextElement):
    """A token of an answer, inside its line of text."""

    def __init__(self, text: str) -> None:
        super().__init__(tag="span", text=text)
        self.classes("token")

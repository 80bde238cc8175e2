"""The page of one run: curves while it trains, its log, its answers during training, and the buttons that control it."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from nicegui import run, ui

from bulletlm.dashboard import processes, queue, show
from bulletlm.dashboard.charts import line_chart, show_curves
from bulletlm.dashboard.figures import ShownVerdict, shown_verdicts
from bulletlm.dashboard.frame import Dashboard, explained_heading, heading, help_button, known_run, page, report_errors, tile
from bulletlm.dashboard.metrics import Axis, Metrics
from bulletlm.dashboard.models import FOUR_BIT, START
from bulletlm.dashboard.processes import number, objects, read_record, section
from bulletlm.dashboard.runs import STAGE_NAMES, Summary
from bulletlm.dashboard.words import Words
from bulletlm.errors import ConfigError
from bulletlm.evaluate.formatting import language_name
from bulletlm.formats.npy import MANIFEST

REFRESH_SECONDS = 1.0

MOST_FACTS = 12

LOAD_EVERY = 3
"""Processor and memory are measured every this many refreshes."""

CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...], bool, str], ...] = (
    (
        "Loss",
        "nats/token",
        (("Training", "train/loss"), ("Validation", "val/loss"), ("Validation, averaged weights", "val/loss_ema"),
         ("Validation, 4-bit weights", "val/loss_bq4")),
        True,
        "How badly the model predicts the next token; lower is better. Training: on the text that it learns from. Validation: on text "
        "that it never sees. If validation rises while training falls, the model learns its text by heart.",
    ),
    (
        "Perplexity",
        "tokens",
        (("Validation", "perplexity"), ("4-bit weights", "perplexity_bq4")),
        True,
        "Between how many equally likely tokens the model hesitates at each place; lower is better. It depends on the vocabulary.",
    ),
    (
        "Bits per byte",
        "bits/byte",
        (("Validation", "val/bpb"),),
        False,
        "The validation loss per byte of text; lower is better. It can be compared between models with different vocabularies.",
    ),
    ("Learning rate", "", (("Learning rate", "lr"),), True, "How much a step changes the weights. The rate rises at first, then falls."),
    (
        "Gradient norm",
        "",
        (("Gradient norm", "grad_norm"),),
        True,
        "Length of the gradient of a step, before it is clipped. Sudden jumps are a sign of an unstable training.",
    ),
    (
        "Speed",
        "tokens/s",
        (("Training speed", "tokens_per_s"),),
        False,
        "How many tokens of text the training reads in a second. It falls while other programs use the processor.",
    ),
)  # fmt: skip
"""Title, unit, curves (name, metric), whether it follows the switch "logarithmic", explanation."""

AXES: dict[str, Axis] = {"Steps": "step", "Tokens": "tokens", "Minutes": "time"}


def build(dashboard: Dashboard, request: Request, name: str) -> None:
    """Build the page of the run `name`."""
    with page(request, name, "/") as t:
        folder = known_run(dashboard, t, name)
        if folder:
            _Page(dashboard, t, folder.name, request)


class _Page:
    """The parts of the page that change."""

    def __init__(self, dashboard: Dashboard, t: Words, name: str, request: Request) -> None:
        self.dashboard, self.t, self.name = dashboard, t, name
        self.folder = dashboard.workspace.run_folder(name)
        self.metrics = Metrics(self.folder / "metrics.jsonl")
        self.metrics.refresh()
        self.meter = processes.LoadMeter(self.folder)
        self.summary = dashboard.runs.get(name)
        self.ticks = 0
        self.samples_shown = -1
        query = request.query_params
        axis = query.get("x", "Steps")
        self.axis = axis if axis in AXES else "Steps"
        self.logarithmic = query.get("log") == "1"
        try:
            self.smoothing = min(0.99, max(0.0, float(query.get("smooth", "0"))))
        except ValueError:
            self.smoothing = 0.0
        self._head()
        self._controls()
        self._charts()
        self._below()
        self._update(self.summary)
        ui.timer(REFRESH_SECONDS, self._refresh, immediate=False)

    def _head(self) -> None:
        t = self.t
        with ui.element("div").classes("line"):
            heading(self.name)
            self.chip = ui.label().classes("state")
        self.message = ui.label().classes("bad")
        self.bar = ui.linear_progress(0, show_value=False, size="10px").props("rounded")
        self.progress = ui.label().classes("soft small").props("aria-live=polite")
        with ui.element("div").classes("line"):
            self.start = self._button("Start", "play_arrow", self._start)
            self.stop = self._button("Stop after this step", "stop", self._stop)
            self.finish = self._button("Stop and keep the best", "flag", self._finish)
            self.extend = self._button("Train longer", "update", self._extend)
            self.enqueue = self._button("Add to the queue", "playlist_add", self._enqueue)
            self.dequeue = self._button("Remove from the queue", "playlist_remove", self._dequeue)
            self._button("Duplicate with changes", "content_copy", lambda: ui.navigate.to("/new?" + urlencode({"from": self.name})))
            self.export = self._button("Quantize and export", "download", lambda: ui.navigate.to(f"/export/{quote(self.name, safe='')}"))
            self.play = self._button(
                "Playground", "chat", lambda: ui.navigate.to("/playground?" + urlencode({"model": f"{self.name}/4bit"}))
            )
            self.tuned = self._button("Before and after", "compare", self._before_and_after)
            self.base = self._button(
                "Start a new run from this model", "call_split", lambda: ui.navigate.to("/new?" + urlencode({"start": self.name}))
            )
            self.report = self._button(
                "Report card", "description", lambda: ui.navigate.to(f"/files/{quote(self.name, safe='')}/report.html")
            )
        with ui.element("div").classes("tiles"):
            self.tiles = {
                "loss": tile(t, "Best loss", show.NOTHING, "Lowest loss on text that the model never saw, in nats per token."),
                "bpb": tile(t, "Bits per byte", show.NOTHING, "Bits that the model needs for a byte of unseen text. Lower is better."),
                "gap": tile(
                    t,
                    t("{n}-bit gap", n=self.summary.file_bits),
                    show.NOTHING,
                    "Change of the perplexity from FP32 weights to the model file. 0 is ideal.",
                ),
                "speed": tile(t, "Speed", show.NOTHING, "Tokens of text that the training reads in a second, median of the last steps."),
                "eta": tile(
                    t,
                    "Time left",
                    show.NOTHING,
                    "Time until the training ends at its present speed. The later stages take additional time.",
                ),
                "size": tile(t, "File size", show.NOTHING, "Size of the model file."),
                "parameters": tile(t, "Parameters", show.NOTHING, "Number of weights of the model."),
                "cpu": tile(t, "Processor", show.NOTHING, "Processor cores that the run uses now."),
                "memory": tile(t, "Memory", show.NOTHING, "Main memory that the processes of the run use now."),
            }
        self.verdicts = ui.element("div").classes("column").style("gap:0.2rem")
        self.verdicts_shown: list[ShownVerdict] = []

    def _before_and_after(self) -> None:
        """Open the playground with the model from which the run started beside the one that it made."""
        ui.navigate.to("/playground?" + urlencode({"model": f"{self.name}/{START}", "second": f"{self.name}/{FOUR_BIT}"}))

    def _button(self, text: str, icon: str, action: Callable[[], Any]) -> ui.button:
        return ui.button(self.t(text), icon=icon, on_click=action).props("no-caps outline")

    def _controls(self) -> None:
        t = self.t
        self.no_curves = ui.label(t("The curves begin with the first step of the training.")).classes("soft")
        with ui.element("div").classes("line") as self.controls:
            ui.label(t("Horizontal axis")).classes("soft small")
            ui.toggle({name: t(name) for name in AXES}, value=self.axis, on_change=lambda e: self._set(axis=e.value)).props("no-caps dense")
            ui.switch(t("Logarithmic"), value=self.logarithmic, on_change=lambda e: self._set(logarithmic=e.value))
            with ui.element("div").classes("line").style("flex-wrap:nowrap;width:auto"):
                ui.label(t("Smoothing")).classes("soft small")
                slider = ui.slider(min=0, max=0.98, step=0.02, value=self.smoothing).props(f'aria-label="{t("Smoothing")}" label')
                slider.style("width:8rem").on("change", lambda e: self._set(smoothing=slider.value))
                help_button(
                    t,
                    t("Smoothing"),
                    t(
                        "Weight of the earlier points of a curve, from 0 to 0.98. A high weight shows the trend of training loss, "
                        "gradient norm and speed."
                    ),
                )
            ui.button(t("Reset zoom"), icon="zoom_out_map", on_click=self._zoom_out).props("flat dense no-caps")

    def _set(self, *, axis: str | None = None, logarithmic: bool | None = None, smoothing: float | None = None) -> None:
        """Change how curves are drawn, and keep it in the address so that a reload shows the same."""
        self.axis = self.axis if axis is None else axis
        self.logarithmic = self.logarithmic if logarithmic is None else logarithmic
        self.smoothing = self.smoothing if smoothing is None else smoothing
        query = urlencode({"x": self.axis, "log": int(self.logarithmic), "smooth": f"{self.smoothing:g}"})
        ui.run_javascript(f"history.replaceState(null, '', {json.dumps('?' + query)})")
        self._draw()

    def _zoom_out(self) -> None:
        for chart in self.charts:
            chart.run_chart_method("dispatchAction", {"type": "dataZoom", "start": 0, "end": 100})

    def _charts(self) -> None:
        t = self.t
        self.charts: list[ui.echart] = []
        self.drawn: dict[ui.echart, str] = {}
        with ui.element("div").classes("charts") as self.curves:
            for title, unit, _, _, explanation in CHARTS:
                with ui.element("section").classes("card").props(f'aria-label="{t(title)}"'):
                    explained_heading(t, f"{t(title)} ({t(unit)})" if unit else t(title), t(explanation))
                    self.charts.append(ui.echart(line_chart([], x_name="")).classes("chart"))
        self._draw()

    def _draw(self) -> None:
        t, metrics = self.t, self.metrics
        x_names = {"Steps": t("step"), "Tokens": t("training tokens"), "Minutes": t("minutes of training")}
        options = {}
        for chart, (_, _, curves, follows, _) in zip(self.charts, CHARTS, strict=True):
            lines = []
            for label, metric in curves:
                smoothing = self.smoothing if metric in ("train/loss", "grad_norm", "tokens_per_s") else 0.0
                points = metrics.points(metric, AXES[self.axis], smoothing)
                if points:
                    lines.append((t(label), points))
            new = line_chart(
                lines,
                x_name=x_names[self.axis],
                log=follows and self.logarithmic,
                markers=[t(label) for label, metric in curves if metric.startswith(("val/", "perplexity"))],
            )
            options[chart] = new
        show_curves(options, self.drawn)
        begun = any(chart["series"] for chart in options.values())
        self.no_curves.set_visibility(not begun)
        self.controls.set_visibility(begun)
        self.curves.set_visibility(begun)

    def _below(self) -> None:
        t = self.t
        with ui.element("div").classes("pair"):
            with ui.element("section").classes("card"):
                explained_heading(
                    t,
                    t("What it answers while it learns"),
                    t("The same prompts are answered at every validation, always with the likeliest token."),
                )
                self.prompt = ui.select([], label=t("Prompt"), on_change=self._show_answers).props("dense outlined")
                self.answers = ui.element("div").classes("log").props("tabindex=0")
            with ui.element("section").classes("card"):
                heading(t("Log"), 2)
                with ui.element("div").classes("log tail").props(f'tabindex=0 role=log aria-label="{t("Log")}"'):
                    self.log = ui.label().classes("mono")
        with ui.element("div").classes("pair"):
            self._facts(
                "Text",
                "The text after cleaning, and the rules that dropped or changed the most: the number of texts, and of their characters.",
                "data/clean-report.json",
                "clean-report.json",
                _data_facts,
            )
            self._facts(
                "Tokenizer",
                "Tokens are the pieces in which the model reads text. With fewer tokens per word it sees more text at once.",
                "tokenizer/report.json",
                "tokenizer-report.json",
                _tokenizer_facts,
            )

    def _facts(
        self, title: str, explanation: str, file: str, download: str, facts: Callable[[Words, dict[str, Any]], list[tuple[str, str]]]
    ) -> None:
        """A card with the most important facts of a report, and a link to all of it."""
        rows = facts(self.t, read_record(self.folder / file))
        if not rows:
            return
        with ui.element("section").classes("card"):
            explained_heading(self.t, self.t(title), self.t(explanation))
            with ui.element("div").classes("facts"):
                for name, value in rows:
                    ui.label(name).classes("soft")
                    ui.label(value)
            ui.link(self.t("The whole report (JSON)"), f"/files/{quote(self.name, safe='')}/{download}").classes("small")

    def _show_samples(self) -> None:
        if len(self.metrics.samples) == self.samples_shown:
            return
        self.samples_shown = len(self.metrics.samples)
        prompts = list(dict.fromkeys(sample.prompt for sample in self.metrics.samples))
        chosen = self.prompt.value if self.prompt.value in prompts else (prompts[0] if prompts else None)
        self.prompt.set_options(prompts, value=chosen)
        self._show_answers()

    def _show_answers(self) -> None:
        self.answers.clear()
        with self.answers:
            found = [sample for sample in self.metrics.samples if sample.prompt == self.prompt.value]
            if not found:
                ui.label(self.t("The first answers come with the first validation.")).classes("soft")
            for sample in reversed(found[-60:]):
                ui.label(self.t("step {step}", step=show.whole(sample.step))).classes("soft small")
                ui.label(sample.answer or show.NOTHING).classes("answer")

    def _update(self, found: Summary) -> None:
        """Show the state of the run, its numbers and buttons, and what was added to its answers and log."""
        self.summary = found
        self.chip.set_text(self.t(found.state))
        self.chip.classes(replace=f"state {found.state}")
        self.message.set_text(found.message)
        self.message.set_visibility(bool(found.message))
        self.bar.set_value(round(found.progress, 3))
        step = self.metrics.last_step or found.step
        self.progress.set_text(self._progress_text(found, step))
        self._update_buttons(found, step)
        self._update_tiles(found)
        self._show_verdicts(shown_verdicts(self.t, found))
        self._show_samples()
        self._show_log(processes.read_log(self.folder))

    def _progress_text(self, found: Summary, step: int) -> str:
        t = self.t
        parts = [t(STAGE_NAMES[found.stage])] if found.stage else []
        if step and found.total_steps:
            parts.append(t("step {step} of {total}", step=show.whole(step), total=show.whole(found.total_steps)))
        if (left := self._seconds_left(found)) is not None:
            parts.append(t("{time} left", time=show.span(left, t.language)))
        if self.metrics.ended:
            parts.append(t("why the training ended: {reason}", reason=show.text(self.metrics.ended, t.language)))
        return " · ".join(parts)

    def _seconds_left(self, found: Summary) -> float | None:
        """Seconds until the training ends at the median speed of its last steps, as the speed of one step varies."""
        speed = self.metrics.recent_speed()
        return found.eta * found.tokens_per_s / speed if found.eta is not None and found.tokens_per_s and speed else found.eta

    def _update_buttons(self, found: Summary, step: int) -> None:
        """Show the buttons for what can be done in the present state."""
        running, done = found.state == "running", processes.done_stages(self.folder)
        can_start = found.state in ("stopped", "failed")
        has_model = found.file_bytes is not None
        self.start.set_visibility(can_start)
        self.start.set_text(self.t("Resume") if step else self.t("Start"))
        self.enqueue.set_visibility(can_start)
        self.extend.set_visibility((can_start or found.state == "finished") and "train" in done)
        self.dequeue.set_visibility(found.state == "waiting")
        self.stop.set_visibility(running)
        self.finish.set_visibility(running and found.stage == "train" and found.best_loss is not None)
        self.export.set_visibility(has_model or found.best_loss is not None)
        self.play.set_visibility(has_model)
        self.tuned.set_visibility(has_model and (self.folder / "start" / "npy" / MANIFEST).is_file())
        self.base.set_visibility(not running and "export" in done)
        self.report.set_visibility((self.folder / "report.html").is_file())

    def _update_tiles(self, found: Summary) -> None:
        t, speed = self.t, self.metrics.recent_speed()
        self.tiles["loss"].set(show.decimal(found.best_loss), "" if found.best_loss is None else t("nats/token"))
        self.tiles["bpb"].set(show.decimal(found.bits_per_byte), "" if found.bits_per_byte is None else t("bits/byte"))
        self.tiles["gap"].rename(t("{n}-bit gap", n=found.file_bits))
        self.tiles["gap"].set(show.change(found.gap))
        self.tiles["speed"].set(show.whole(speed or None), t("tokens/s") if speed else "")
        self.tiles["eta"].set(show.span(self._seconds_left(found), t.language))
        self.tiles["size"].set(show.file_size(found.file_bytes))
        self.tiles["parameters"].set(show.parameters(found.parameters, t.language))

    def _show_log(self, log: str) -> None:
        text = log or self.t("The log is empty.")
        if self.log.text != text:
            self.log.set_text(text)

    def _show_verdicts(self, verdicts: list[ShownVerdict]) -> None:
        if verdicts == self.verdicts_shown:
            return
        self.verdicts_shown = verdicts
        self.verdicts.clear()
        with self.verdicts:
            for verdict in verdicts:
                ui.label(verdict.sentence).classes(verdict.look)

    def _update_load(self) -> None:
        load = self.meter.read()
        self.tiles["cpu"].set(show.decimal(load.cores if load else None, 1), self.t("cores") if load else "")
        self.tiles["memory"].set(show.file_size(load.memory) if load else show.NOTHING)

    async def _refresh(self) -> None:
        self.ticks += 1
        before = self.summary
        if self.summary.state in ("running", "waiting") or self.ticks % 3 == 0:
            try:
                found = await run.io_bound(self.dashboard.runs.get, self.name)
            except ConfigError:  # the run was deleted on another page
                ui.navigate.to("/")
                return
            changed = self.metrics.refresh()
            if changed:
                self._draw()
            if found is not None and (changed or found != before or found.state == "running"):
                self._update(found)
        if self.ticks % LOAD_EVERY == 0:
            self._update_load()

    async def _act(self, action: Callable[[], Any]) -> None:
        report_errors(self.t, action)
        self._update(self.dashboard.runs.get(self.name))

    async def _start(self) -> None:
        await self._act(lambda: processes.start(self.folder, queue.run_words(self.folder), self.dashboard.workspace.folder))

    async def _stop(self) -> None:
        ui.notify(self.t("The run saves its state and stops."), position="top")
        await self._act(lambda: processes.stop(self.folder))

    async def _finish(self) -> None:
        ui.notify(self.t("The training ends after this step; then the best weights become the model."), position="top")
        await self._act(lambda: processes.finish_training(self.folder))

    async def _extend(self) -> None:
        t, step = self.t, self.metrics.last_step
        with ui.dialog() as dialog, ui.element("div").classes("card"):
            heading(t("Train longer"), 2)
            ui.label(
                t(
                    "The run has trained {count} steps. It continues from there, and everything after the training is done again.",
                    count=show.whole(step),
                )
            )
            steps = ui.number(t("Total steps"), value=2 * step, min=step + 1, precision=0).props("dense outlined")
            with ui.element("div").classes("line"):
                ui.button(t("Cancel"), on_click=lambda: dialog.submit(None)).props("no-caps flat")
                ui.button(t("Start"), on_click=lambda: dialog.submit(steps.value)).props("no-caps unelevated")
        chosen = await dialog
        if chosen:
            await self._act(lambda: queue.extend(self.folder, int(chosen), self.dashboard.workspace))

    async def _enqueue(self) -> None:
        await self._act(lambda: queue.enqueue(self.folder, self.dashboard.workspace))

    async def _dequeue(self) -> None:
        await self._act(lambda: queue.dequeue(self.folder))


def _data_facts(t: Words, report: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for part, title in (("train", t("Training text")), ("validation", t("Validation text"))):
        if facts := section(report, part):
            counts = {name: show.whole(number(facts.get(name)) or 0) for name in ("characters", "documents", "conversations")}
            rows.append((title, t("{characters} characters; documents: {documents}; conversations: {conversations}", **counts)))
    rules = objects(list(section(report, "rules").values()))
    for rule in sorted(rules, key=lambda rule: -abs(number(rule.get("characters")) or 0)):
        count = number(rule.get("rejected", rule.get("changed"))) or 0
        if count and len(rows) < MOST_FACTS:
            what = t("dropped") if "rejected" in rule else t("changed")
            characters = show.whole(abs(number(rule.get("characters")) or 0))
            rows.append((show.text(str(rule.get("rule", "")), t.language), f"{show.whole(count)} × {what}, {characters} {t('characters')}"))
    return rows


def _tokenizer_facts(t: Words, report: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if (size := number(report.get("vocab_size"))) is not None:
        rows.append((t("Size of the vocabulary"), t("{count} tokens", count=show.whole(size))))
    for code, facts in section(report, "languages").items():
        words, characters = (number(section(facts).get(name)) for name in ("tokens_per_word", "chars_per_token"))
        if words is not None and characters is not None:
            text = t("{words} tokens per word, {characters} characters per token", words=f"{words:.2f}", characters=f"{characters:.2f}")
            rows.append((language_name(code, t.language), text))
    return rows

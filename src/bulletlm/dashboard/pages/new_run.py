"""The page for a new run: settings as JSON, as flags and as a form in step; texts with a preview; the plan; start."""

import asyncio
import json
import sys
from typing import Any
from urllib.parse import quote

import psutil
from fastapi import Request
from nicegui import run, ui
from nicegui.elements.mixins.validation_element import ValidationElement

from bulletlm.config.loader import nested
from bulletlm.dashboard import processes, queue, settings_mr, show
from bulletlm.dashboard.chooser import HOURS, choose_in_process
from bulletlm.dashboard.drafts import draft_of_run, give_free_name, load_draft, mistakes, new_run, save_draft, start_from
from bulletlm.dashboard.forms import Draft, Setting, form, help_of
from bulletlm.dashboard.frame import (
    Dashboard,
    explained_heading,
    explained_line,
    heading,
    help_button,
    page,
    report_errors,
    show_error,
    tile,
)
from bulletlm.dashboard.models import is_model_file, start_models
from bulletlm.dashboard.planner import PlanLine, load_clock, plan_line, speed_file
from bulletlm.dashboard.preview import Preview, preview
from bulletlm.dashboard.recipes import recipes
from bulletlm.dashboard.uploads import uploaded
from bulletlm.dashboard.words import Words
from bulletlm.errors import BulletError
from bulletlm.evaluate.formatting import language_name

SECTIONS = {
    "": "General",
    "data": "Data",
    "data.clean": "Cleaning",
    "data.mix": "Mixture",
    "augment": "Augmentation",
    "tokenizer": "Tokenizer",
    "model": "Model",
    "train": "Training",
    "quant": "Quantization",
    "qat": "Quantization-aware training",
    "sampling": "Generation",
    "evaluate": "Evaluation",
    "report": "Report card",
    "report.limits": "Limits of the report card",
}
"""Names of the groups of settings."""

BYTES_PER_TOKEN = 5.0
"""Bytes of UTF-8 text in a token, about: Marathi needs three bytes a letter and has longer tokens in bytes."""

DEFAULT_HOURS = 1.0

PAUSE_SECONDS = 0.4
"""The plan is computed when the user has not typed for about this long."""


def build(dashboard: Dashboard, request: Request) -> None:
    """Build the page.

    ?from=RUN begins with the settings of that run, and ?flags=FLAGS changes them. ?start=RUN starts from the model of that run.
    """
    with page(request, "New run", "/new") as t:
        draft = load_draft(dashboard.workspace)
        source, model = request.query_params.get("from"), request.query_params.get("start")
        try:
            if source:
                draft = draft_of_run(dashboard.workspace.run_folder(source))
                draft.edit_flags(request.query_params.get("flags", ""))
            elif model:
                start_from(draft, str(dashboard.workspace.run_folder(model)))
        except BulletError as error:
            show_error(t, error)
        give_free_name(draft, dashboard.workspace, None if "name" in draft.given else source)
        _Page(dashboard, t, draft)


class _Page:
    """The parts of the page that change."""

    def __init__(self, dashboard: Dashboard, t: Words, draft: Draft) -> None:
        self.dashboard, self.t, self.draft = dashboard, t, draft
        self.fields: dict[str, tuple[Setting, Any]] = {}
        self.mistakes: dict[str, str] = {}
        self.syncing = False
        self.found: Preview | None = None
        self.looked_at: Any = None
        self.due = True
        heading(t("New run"))
        self._texts()
        self._boxes()
        self._plan()
        self._form()
        self._sync()
        ui.timer(PAUSE_SECONDS, self._tick)
        ui.timer(0.1, self._measure, once=True)

    # The text to learn from.

    def _texts(self) -> None:
        t = self.t
        with ui.element("section").classes("card"):
            explained_heading(
                t,
                t("1. Text to learn from"),
                t("Text, Word, PDF, EPUB, web pages, tables, subtitles, chats and archives are read. Files stay on this computer."),
            )
            with ui.element("div").classes("pair"):
                with ui.element("div"):
                    uploader = ui.element("q-uploader").props(
                        f'multiple auto-upload send-raw flat bordered label="{t("Upload files: choose or drop them here")}" '
                        ':url="files => `/upload?name=${encodeURIComponent(files[0].name)}`" style="width:100%"'
                    )
                    uploader.on("uploaded", lambda e: self._uploaded(e.args), js_handler="(info) => emit(info.xhr.responseText)")
                    uploader.on("failed", lambda: ui.notify(t("The upload failed: is there room on the disk?"), type="negative"), args=[])
                with ui.element("div"):
                    self.path = ui.input(t("Or a folder or file on this computer")).props("outlined dense")
                    self.path.on("keydown.enter", self._add_path)
                    ui.button(t("Add"), icon="add", on_click=self._add_path).props("flat no-caps dense")
                    with ui.element("div").classes("line"):
                        for name, label in (("sample", t("The corpus of the package")), ("simple", t("Its simple part"))):
                            ui.button(label, on_click=lambda name=name: self._add(name)).props("flat no-caps dense")
            self.sources = ui.element("div").classes("line")
            self.sources_problem = ui.label().classes("bad")
            self.preview = ui.element("div").classes("card").props("aria-live=polite")
            self.preview.set_visibility(False)

    def _paths(self) -> list[Any]:
        sources = self.draft.given.get("data.sources", [])
        return sources if isinstance(sources, list) else [sources]

    def _add_path(self) -> None:
        text = (self.path.value or "").strip()
        if text:
            self.path.set_value("")
            self._add(text)

    def _add(self, path: str) -> None:
        if path not in self._paths():
            self._edit("data.sources", [*self._paths(), path])

    def _remove(self, number: int) -> None:
        left = [source for index, source in enumerate(self._paths()) if index != number]
        self._edit("data.sources", left or None)

    def _uploaded(self, name: Any) -> None:
        """Add a file that was uploaded; `name` is the answer to the upload, which comes through the browser and is checked."""
        if name not in {upload.name for upload in uploaded(self.dashboard.workspace)}:
            return
        path = str(self.dashboard.workspace.uploads / name)
        if is_model_file(name):
            self._start_from(path)
        else:
            self._add(path)

    def _show_sources(self) -> None:
        self.sources.clear()
        with self.sources:
            for number, source in enumerate(self._paths()):
                path = source.get("path", "") if isinstance(source, dict) else str(source)
                shown = path.removeprefix(str(self.dashboard.workspace.folder) + "/")
                ui.chip(shown, removable=True, on_value_change=lambda e, n=number: self._remove(n)).props("outline")
        data = self._data()
        if data != self.looked_at:
            self.looked_at = data
            self.found = None
            self.preview.set_visibility(False)
            if self._paths() and not any(path in data for path in self.mistakes):
                ui.timer(0, self._look, once=True)

    def _data(self) -> dict[str, Any]:
        """The settings of the texts and of their cleaning, which decide what the preview shows."""
        return {name: value for name, value in self.draft.given.items() if name == "data.sources" or name.startswith("data.clean.")}

    async def _look(self) -> None:
        t, data = self.t, self.looked_at
        self._show_preview_text(t("Looking at the text ..."))
        try:
            found = await preview(nested(data)["data"], 42, self.dashboard.workspace.folder)
        except BulletError as error:
            if data == self.looked_at:
                self._show_preview_text(str(error), "bad")
            return
        if data != self.looked_at:
            return  # the user has changed the texts or the rules in the meantime
        self.found, self.due = found, True
        self._show_preview(found)

    def _show_preview_text(self, text: str, look: str = "soft") -> None:
        self.preview.set_visibility(True)
        self.preview.clear()
        with self.preview:
            ui.label(text).classes(look)

    def _show_preview(self, found: Preview) -> None:
        self.preview.clear()
        with self.preview:
            _preview_tiles(self.t, found)
            _preview_rules(self.t, found)
            for text in found["beginning"]:
                ui.label(text + " …").classes("answer soft small")

    # The three forms of the settings.

    def _boxes(self) -> None:
        t = self.t
        with ui.element("section").classes("card"):
            with ui.element("div").classes("line"):
                heading(t("2. Settings"), 2)
                ui.space()
                ui.button(t("Clear all"), on_click=self._clear).props("flat no-caps dense")
            self._chooser()
            self._starts()
            with ui.element("div").classes("pair"):
                self.json_box, self.json_problem = _box(t("Configuration: paste JSON here, comments are allowed"))
                self.flags_box, self.flags_problem = _box(t("Extra args: paste a line of flags here, such as --lr=5e-4"))
            self.general_problem = ui.label().classes("bad").props("role=alert")
        self.json_box.on_value_change(lambda e: self._from_box(self.draft.edit_json, e.value))
        self.flags_box.on_value_change(lambda e: self._from_box(self.draft.edit_flags, e.value))

    def _chooser(self) -> None:
        """The time for the run, and the button that chooses settings for it."""
        t = self.t
        with ui.element("div").classes("line"):
            hours = {value: t(name) for value, name in HOURS.items()}
            self.hours = ui.select(hours, value=DEFAULT_HOURS, label=t("Time for the run")).props("dense outlined").classes("narrow")
            self.choose = ui.button(t("Choose the settings for me"), icon="auto_fix_high", on_click=self._choose)
            self.choose.props("no-caps outline")
            help_button(
                t,
                t("Choose the settings for me"),
                t(
                    "The program looks at the text, measures this computer for a few seconds, and chooses the model that learns the "
                    "most in this time."
                ),
            )
            self.choosing = ui.spinner()
            self.choosing.set_visibility(False)
        self.notes = ui.label().classes("warn").style("white-space:pre-line").props("aria-live=polite")

    def _starts(self) -> None:
        """The model from which the run starts, and the recipes."""
        t = self.t
        with ui.element("div").classes("line"):
            self.start = ui.select({"": ""}, value="", label=t("Start from"), on_change=self._started_from)
            self.start.props("dense outlined").classes("narrow")
            help_button(
                t,
                t("Start from"),
                t(
                    "A model that knows the language already learns from little text. Its shape and vocabulary are kept. "
                    "Models of the package, of your runs, and uploaded .bullet and .gguf files can be chosen."
                ),
            )
            names = recipes(self.dashboard.workspace)
            if names:
                select = ui.select(["", *names], value="", label=t("Begin with a recipe"), on_change=self._recipe)
                select.props("dense outlined").classes("narrow")

    def _from_box(self, edit: Any, text: str | None) -> None:
        if not self.syncing:
            edit(text or "")
            self._sync()

    def _recipe(self, event: Any) -> None:
        path = recipes(self.dashboard.workspace).get(event.value or "")
        if path is not None:
            sources = self.draft.given.get("data.sources")
            text = report_errors(self.t, lambda: path.read_text(encoding="utf-8", errors="replace"))
            if text is None:
                return
            self.draft.edit_json(text)
            if sources:
                self.draft.edit_setting("data.sources", sources)
            self._sync()

    def _started_from(self, event: Any) -> None:
        if not self.syncing:
            self._start_from(event.value or None)

    def _start_from(self, model: str | None) -> None:
        removed = start_from(self.draft, model)
        if removed:
            ui.notify(
                self.t("The model decides its shape and vocabulary, so these settings were taken out: {names}.", names=", ".join(removed)),
                position="top",
            )
        self._sync()

    def _show_start(self) -> None:
        """Show the model from which the run starts; one that is no choice, such as a folder, is added to the choices."""
        chosen = self.draft.given.get("model.start_from")
        value = chosen if isinstance(chosen, str) and chosen != "none" else ""
        options = {"": self.t("Random weights"), **start_models(self.dashboard.workspace, self.dashboard.runs.names())}
        options.setdefault(value, value)
        if self.start.options != options or self.start.value != value:
            self.start.set_options(options, value=value)

    async def _choose(self) -> None:
        """Choose settings for the text and the time."""
        t = self.t
        if not self._paths():
            ui.notify(t("Choose the text first."), position="top")
            return
        paths = [source.get("path", "") if isinstance(source, dict) else str(source) for source in self._paths()]
        problems = list(self.dashboard.workspace.check_settings(self.draft.given))
        if problems:
            show_error(self.t, BulletError(": ".join(problems[0])))
            return
        self.choose.disable()
        self.choosing.set_visibility(True)
        self.notes.set_text(t("Looking at the text and measuring this computer ..."))
        sources = self.draft.given["data.sources"]
        try:
            folder, given = self.dashboard.workspace.folder, self.draft.given
            chosen = await choose_in_process(paths, float(self.hours.value), given, folder, t.language)
        except BulletError as error:
            self.notes.set_text(str(error))
            return
        finally:
            self.choose.enable()
            self.choosing.set_visibility(False)
        self.draft.flags_text = ""
        self.draft.edit_json(chosen["settings"])
        if any(isinstance(source, dict) for source in sources):  # with a weight or other settings, which the choice does not know
            self.draft.edit_setting("data.sources", sources)
        self.notes.set_text("\n".join(chosen["notes"]))
        self._sync()

    def _clear(self) -> None:
        self.draft.flags_text = ""
        self.draft.edit_json("")
        self._sync()

    def _form(self) -> None:
        t = self.t
        with ui.element("section").classes("card"):
            heading(t("3. The same settings as a form"), 2)
            with ui.element("div").classes("settings"):
                for setting in form():
                    if setting.basic:
                        self._field(setting)
            for section, title in SECTIONS.items():
                rest = [setting for setting in form() if setting.section == section and not setting.basic]
                if rest:
                    self._more(t(title), rest)

    def _more(self, title: str, rest: list[Setting]) -> None:
        """A group of further settings, whose fields are built when it is opened."""
        with ui.expansion(f"{title}: {self.t('more settings')} ({len(rest)})").classes("w-full").props("dense") as expansion:
            inside = ui.element("div").classes("settings")

        def opened() -> None:
            if expansion.value and not inside.default_slot.children:
                with inside:
                    for setting in rest:
                        self._field(setting)
                self._sync()

        expansion.on_value_change(opened)

    def _field(self, setting: Setting) -> None:
        t = self.t
        limits, values = setting.limits
        title, text = setting.path, help_of(setting.path, t.language)
        if t.language == "mr":
            title = f"{settings_mr.TITLES[setting.path]} ({title})" if setting.path in settings_mr.TITLES else title
        hint = "; ".join(filter(None, [t(limits, **values) if limits else "", f"{t('default')}: {_text(setting, setting.default) or '–'}"]))
        field: Any
        with ui.element("div").classes("line").style("flex-wrap:nowrap;align-items:flex-start"):
            if setting.kind == "switch":
                field = ui.switch(title)
            elif setting.kind == "choice":
                choices = list(setting.choices)
                field = ui.select(["", *choices] if setting.optional else choices, label=title).props("dense outlined")
            else:
                field = ui.input(title).props("dense outlined debounce=400 bottom-slots")
                if setting.kind in ("whole", "number"):
                    field.props("inputmode=decimal")
            if setting.kind != "switch":
                field.set_value(_text(setting, self.draft.value(setting)))
            field.props(f'hint="{hint}"' if setting.kind != "switch" else "").mark(setting.path)
            help_button(t, title, f"{text} ({hint})")
        if isinstance(field, ValidationElement):
            field.validation = lambda value: self.mistakes.get(setting.path)  # after each change, when `_sync` has checked all
        field.on_value_change(lambda e: self._from_field(setting, e.value))
        self.fields[setting.path] = (setting, field)

    def _from_field(self, setting: Setting, value: Any) -> None:
        if not self.syncing:
            self._edit(setting.path, _value(setting, value))

    def _edit(self, path: str, value: Any) -> None:
        if value is None and path == "data.sources":
            self.draft.given.pop(path, None)
            self.draft.edit_setting("name", self.draft.given.get("name", "model"))
        else:
            self.draft.edit_setting(path, value)
        self._sync()

    def _sync(self) -> None:
        """Show the draft everywhere, and its mistakes where they are."""
        self.syncing = True
        try:
            draft = self.draft
            for box, text in ((self.json_box, draft.json_text), (self.flags_box, draft.flags_text)):
                if (box.value or "") != text:
                    box.set_value(text)
            for setting, field in self.fields.values():
                value = draft.value(setting)
                shown = bool(value) if setting.kind == "switch" else _text(setting, value)
                if field.value != shown and _value(setting, field.value) != value:
                    field.set_value(shown)
            self._show_start()
        finally:
            self.syncing = False
        self.json_problem.set_text(draft.json_problem)
        self.flags_problem.set_text(draft.flags_problem)
        self.mistakes = mistakes(draft.given, self.dashboard.workspace)
        for path, (_, field) in self.fields.items():
            if isinstance(field, ValidationElement) and field.error != self.mistakes.get(path):
                field.validate()
        self.sources_problem.set_text(self.mistakes.get("data.sources", "") if self._paths() else "")
        hidden = [f"{path}: {text}" if path else text for path, text in self.mistakes.items() if path not in self.fields]
        self.general_problem.set_text("; ".join(text for text in hidden if not text.startswith("data.sources:")))
        self._show_sources()
        self.due = True
        report_errors(self.t, lambda: save_draft(draft, self.dashboard.workspace))

    # The plan and the start.

    def _plan(self) -> None:
        t = self.t
        with ui.element("section").classes("card").props(f'aria-label="{t("Plan")}" aria-live=polite'):
            heading(t("Plan"), 2)
            with ui.element("div").classes("tiles"):
                self.tiles = {
                    "parameters": tile(t, "Parameters", show.NOTHING, "Number of weights of the model."),
                    "file": tile(t, "File size", show.NOTHING, "Size of the weights in the model file."),
                    "memory": tile(t, "Memory", show.NOTHING, "About how much main memory the training needs."),
                    "steps": tile(t, "Steps", show.NOTHING, "Optimizer steps of the training."),
                    "epochs": tile(t, "Passes over the text", show.NOTHING, "How often the training reads the text."),
                    "speed": tile(t, "Speed", show.NOTHING, "Expected tokens per second of the training on this computer."),
                    "time": tile(
                        t, "Time of the training", show.NOTHING, "Expected time of the training; the other stages take a few minutes."
                    ),
                    "loss": tile(
                        t,
                        "Expected loss",
                        show.NOTHING,
                        "Expected bits per byte of unseen text, by a formula that was fitted to runs of this program on one text. Use it to compare sizes and times.",  # noqa: E501
                    ),
                }
            self.loss_note = ui.label().classes("soft small")
            self.warnings = ui.label().classes("warn").style("white-space:pre-line")
            self._buttons()

    async def _tick(self) -> None:
        if not self.due:
            return
        self.due = False
        if self.draft.json_problem or self.draft.flags_problem or any(path not in ("data.sources", "name") for path in self.mistakes):
            for each in self.tiles.values():
                each.set(show.NOTHING)
            self.loss_note.set_text("")
            self.warnings.set_text(self.t("The plan is computed when the settings have no mistake."))
            return
        tokens = int(self.found["text_bytes"] / BYTES_PER_TOKEN) if self.found else None
        given, workspace, memory = dict(self.draft.given), self.dashboard.workspace, psutil.virtual_memory().total
        try:
            line = await run.io_bound(lambda: plan_line(given, tokens, load_clock(workspace.state), memory, workspace.folder))
        except BulletError as error:
            self.warnings.set_text(str(error))
            return
        except ValueError:
            return
        if line is not None:
            self._show_plan(line)

    def _show_plan(self, line: PlanLine) -> None:
        t = self.t
        self.tiles["parameters"].set(show.parameters(line.parameters, t.language))
        self.tiles["file"].set(show.file_size(line.file_bytes))
        self.tiles["memory"].set(show.file_size(line.memory_bytes))
        self.tiles["steps"].set(show.whole(line.steps))
        self.tiles["epochs"].set(show.NOTHING if line.epochs is None else f"{line.epochs:,.1f}")
        self.tiles["speed"].set(show.whole(line.tokens_per_s or None), t("tokens/s") if line.tokens_per_s else "")
        self.tiles["time"].set(show.span(line.seconds, t.language))
        self.tiles["loss"].set(
            f"≈ {line.bits_per_byte:.2f}" if line.bits_per_byte else show.NOTHING, t("bits/byte") if line.bits_per_byte else ""
        )
        note = t("The expected loss is a rough figure: text of another kind has other figures.")
        self.loss_note.set_text(note if line.bits_per_byte else "")
        self.warnings.set_text("\n".join(t(text, **values) for text, values in line.warnings))

    async def _measure(self) -> None:
        """Measure the speed of this computer once, while no run uses it."""
        state = self.dashboard.workspace.state
        if speed_file(state).exists() or queue.running(self.dashboard.workspace):
            return
        null = asyncio.subprocess.DEVNULL
        command = (sys.executable, "-P", "-m", "bulletlm.dashboard.planner", str(speed_file(state)))
        process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=null)
        await process.wait()
        self.due = True

    def _buttons(self) -> None:
        t = self.t
        with ui.element("div").classes("line"):
            ui.button(t("Start"), icon="play_arrow", on_click=lambda: self._begin(now=True)).props("no-caps unelevated").mark("start")
            ui.button(t("Add to the queue"), icon="playlist_add", on_click=lambda: self._begin(now=False)).props("no-caps outline")

    def _begin(self, now: bool) -> None:
        draft, workspace = self.draft, self.dashboard.workspace
        if draft.json_problem or draft.flags_problem:
            ui.notify(draft.json_problem or draft.flags_problem, type="negative", position="top")
            return
        try:
            folder = new_run(draft.given, workspace)
            if now:
                processes.start(folder, queue.run_words(folder), workspace.folder)
            else:
                queue.enqueue(folder, workspace)
        except BulletError as error:
            show_error(self.t, error)
            self._sync()
            return
        ui.navigate.to(f"/run/{quote(folder.name, safe='')}")


def _box(title: str) -> tuple[ui.textarea, ui.label]:
    """A box for settings as text, and the label below it for mistakes."""
    with ui.element("div"):
        box = ui.textarea(title).props("outlined debounce=300 input-style='min-height:11rem' spellcheck=false").classes("mono")
        problem = ui.label().classes("bad small").props("role=alert")
    return box, problem


def _preview_tiles(t: Words, found: Preview) -> None:
    """How much text was recognized, in which languages and files, and what is not read."""
    about = "" if found["complete"] else "≈ "
    with ui.element("div").classes("tiles"):
        tile(t, "Characters", about + show.whole(found["characters"]), "Characters of text after cleaning, without exact copies.")
        tile(t, "Files", show.whole(found["files"]), "Files that are read.")
        tile(t, "Documents", show.whole(found["documents"]), "Documents and conversations in the examined part of the text.")
        tile(t, "Conversations", f"{found['conversations']:.0%}", "Share of the characters that are in conversations.")
        tile(t, "Document length", show.whole(found["document"]), "Median length of a document.", t("characters"))
    languages = ", ".join(f"{language_name(code, t.language)} {share:.0%}" for code, share in list(found["languages"].items())[:6])
    explained_line(t, f"{t('Languages')}: {languages}", t("Share of the characters in each language, as recognized."))
    kinds = ", ".join(f"{count} × {kind}" for kind, count in found["kinds"].items())
    explained_line(t, f"{t('Kinds of files')}: {kinds}", t("How many files of each kind are read."))
    for item in found["skipped"][:8]:
        ui.label(f"{t('Not read')}: {item['file']}: {show.text(item['reason'], t.language)}").classes("warn")


def _preview_rules(t: Words, found: Preview) -> None:
    """What each rule of cleaning would drop or change, with examples."""
    if not found["rules"]:
        ui.label(t("Cleaning would drop or change nothing in the examined part.")).classes("soft")
        return
    with ui.expansion(t("What cleaning would drop or change, with examples")).classes("w-full").props("dense"):
        explained_line(
            t,
            t("Rules of cleaning"),
            t("How many texts each rule drops or changes, and how many characters are lost. The form below changes the rules."),
        )
        for rule in found["rules"]:
            what = t("dropped") if rule["dropped"] else t("changed")
            text = f"{show.text(rule['text'], t.language)}: {rule['rows']:,} × {what}, {rule['characters']:,} {t('characters')}"
            ui.label(text).classes("warn" if rule["dropped"] else "")
            for example in rule["examples"]:
                after = f" → {example['after']}" if example["after"] else ""
                ui.label(f"{example['source']}: {example['before']}{after}").classes("mono soft")


def _text(setting: Setting, value: Any) -> str:
    """A value as a field shows it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if setting.kind in ("whole", "number") and type(value) in (int, float):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _value(setting: Setting, shown: Any) -> Any:
    """The value of what a field shows; text that is no such value stays text, so that the check of the settings names it."""
    if setting.kind == "switch":
        return bool(shown)
    text = str(shown or "").strip()
    if setting.kind in ("text", "choice"):
        return None if not text and setting.optional else text
    if not text:
        return None if setting.optional else setting.default
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value

"""Quantize and export: the verdicts with their remedies, the table FP32 against the model file, the sensitivity map, and downloads."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from nicegui import ui

from bulletlm.config.schema import QuantConfig
from bulletlm.dashboard import processes, show
from bulletlm.dashboard.charts import heat_map
from bulletlm.dashboard.export import FORMATS, export_in_process
from bulletlm.dashboard.figures import FIGURES, VERDICTS, report_problem
from bulletlm.dashboard.forms import form, help_of
from bulletlm.dashboard.frame import Dashboard, explained_heading, explained_table, heading, help_button, known_run, page, show_error
from bulletlm.dashboard.models import versions
from bulletlm.dashboard.processes import number, objects, section
from bulletlm.dashboard.remedies import new_run_flags, remedy_words
from bulletlm.dashboard.reports import read_report, verdicts_in
from bulletlm.dashboard.runs import configuration, file_bits
from bulletlm.dashboard.words import Words
from bulletlm.errors import BulletError

LOOKS = {"safe": "good", "limited": "warn", "stop": "bad", "ok": "good", "near": "warn", "broken": "bad"}

ROWS = {
    "loss": ("Loss (nats/token)", "How badly the model predicts the next token of unseen text; lower is better."),
    "perplexity": (
        "Perplexity (tokens)",
        "Between how many equally likely tokens the model hesitates at each place; lower is better. It depends on the vocabulary.",
    ),
    "bits_per_byte": FIGURES["bpb"],
    "size": ("File size", "Size of the model file with these weights."),
    "agreement": ("Same most likely token", "At how many places of the text both models find the same token the most likely one."),
    "kl": ("Divergence (KL, nats/token)", "How far the probabilities of the model file are from those of FP32; 0 is ideal."),
}
"""Rows of the table FP32 against the model file, and what they mean."""

FORMAT_NAMES = {
    "bullet": "BulletLM (.bullet)",
    "html": "Web page that runs the model (.html)",
    "gguf": "llama.cpp and Ollama (GGUF and Modelfile, .zip)",
    "hf": "Hugging Face (folder, .zip)",
    "npy": "NumPy (FP32 tensors, .zip)",
    "card": "Model card (.md)",
}


def build(dashboard: Dashboard, request: Request, name: str) -> None:
    """Build the page of the run `name`."""
    with page(request, "Quantize and export", "/") as t:
        folder = known_run(dashboard, t, name)
        if not folder:
            return
        with ui.element("div").classes("line"):
            heading(f"{t('Quantize and export')}: {folder.name}")
            ui.link(t("Back to the run"), f"/run/{quote(folder.name, safe='')}")
        stored = read_report(folder)
        report = stored.content
        if stored.problem:
            ui.label(report_problem(t, folder.name, stored.problem)).classes("warn")
        elif not report:
            ui.label(t("There is no report card yet: it is written at the end of the run.")).classes("soft")
        if report:
            bits = file_bits(report, folder)
            _verdicts(dashboard, t, folder, report, bits)
            with ui.element("div").classes("pair"):
                _table(t, report, bits)
                _map(t, report)
        with ui.element("div").classes("pair"):
            _quantize(dashboard, t, folder)
            _Downloads(dashboard, t, folder)


def _verdicts(dashboard: Dashboard, t: Words, folder: Path, report: dict[str, Any], bits: int) -> None:
    verdicts = verdicts_in(t.language, report)
    with ui.element("div").classes("pair"):
        for name, (question, explanation) in VERDICTS.items():
            if name in verdicts:
                with ui.element("section").classes("card"):
                    explained_heading(t, t(question, n=bits), t(explanation))
                    _verdict(dashboard, t, folder, verdicts[name])


def _verdict(dashboard: Dashboard, t: Words, folder: Path, verdict: dict[str, Any]) -> None:
    """The title of a verdict, the figures that decided it, all figures, causes, and remedies."""
    ui.label(str(verdict.get("title", ""))).classes(f"decision {LOOKS.get(str(verdict.get('decision')), '')}")
    figures = objects(verdict.get("figures"))
    deciding = verdict.get("deciding")
    _figures([figure for figure in figures if figure.get("name") in (deciding if isinstance(deciding, list) else [])])
    with ui.expansion(t("All figures")).props("dense"):
        _figures(figures)
    for cause in objects(verdict.get("causes")):
        ui.label(str(cause.get("text", ""))).classes("small")
    for remedy in objects(verdict.get("remedies")):
        _remedy(dashboard, t, folder, remedy)


def _figures(figures: list[dict[str, Any]]) -> None:
    for figure in figures:
        ui.label(str(figure.get("text", ""))).classes(f"small {LOOKS.get(str(figure.get('status')), 'soft')}")


def _remedy(dashboard: Dashboard, t: Words, folder: Path, remedy: dict[str, Any]) -> None:
    with ui.element("div").classes("line"):
        ui.label(str(remedy.get("text", ""))).classes("small")
        command = remedy.get("command")
        if not command:
            return
        prepared = new_run_flags(str(command), folder)
        if prepared is not None:
            address = "/new?" + urlencode({"from": folder.name, "flags": prepared.flags})
            label = t("Prepare a new run, and add your text there") if prepared.wants_text else t("Prepare a new run with this change")
            ui.button(label, icon="add", on_click=lambda: ui.navigate.to(address)).props("no-caps outline dense").tooltip(str(command))
            return
        words = remedy_words(str(command), folder)
        if words is None:
            ui.label(str(command)).classes("mono")
            return
        ui.button(t("Do this"), icon="build", on_click=lambda: _start(dashboard, t, folder, words)).props("no-caps outline dense").tooltip(
            str(command)
        )


def _start(dashboard: Dashboard, t: Words, folder: Path, words: list[str]) -> None:
    """Start a command for the run, and show the page of the run."""
    try:
        processes.start(folder, words, dashboard.workspace.folder)
    except BulletError as error:
        show_error(t, error)
        return
    ui.navigate.to(f"/run/{quote(folder.name, safe='')}")


def comparison_rows(report: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """The numbers of the table: name of the row -> FP32, model file, 95 % interval; a dash where the report has no number."""
    comparison = section(report, "comparison")

    def both(name: str, form: Callable[[float | None], str]) -> tuple[str, str]:
        fp32, bq4 = (form(number(section(report, model).get(name))) for model in ("fp32", "bq4"))
        return fp32, bq4

    def between(name: str, form: Callable[[float], str]) -> str:
        found = section(comparison, "intervals", name)
        low, high = number(found.get("low")), number(found.get("high"))
        return "" if low is None or high is None else f"{form(low)} … {form(high)}"

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    agreement = number(section(comparison, "top1_agreement").get("mean"))
    divergence = number(section(comparison, "kl").get("mean"))
    return {
        "loss": (*both("loss", lambda value: show.decimal(value, 4)), between("loss_delta", "{:+.4f}".format)),
        "perplexity": (*both("perplexity", lambda value: show.decimal(value, 2)), between("perplexity_change", show.change)),
        "bits_per_byte": (*both("bits_per_byte", show.decimal), ""),
        "size": (*both("bytes", show.file_size), ""),
        "agreement": ("100 %", show.NOTHING if agreement is None else percent(agreement), between("top1_agreement", percent)),
        "kl": ("0", show.decimal(divergence, 4), between("kl", "{:.4f}".format)),
    }


def _table(t: Words, report: dict[str, Any], bits: int) -> None:
    with ui.element("section").classes("card"):
        explained_heading(t, t("FP32 against {n}-bit", n=bits), t("Both models on the same unseen text."))
        columns: list[dict[str, Any]] = [
            {"name": name, "label": label, "field": name, "align": align, "help": text}
            for name, label, align, text in (
                ("what", "", "left", ""),
                ("fp32", "FP32", "right", t("The model with the weights as they were trained, 32 bits each.")),
                ("bq4", t("{n}-bit", n=bits), "right", t("The model file, with its rounded weights.")),
                (
                    "interval",
                    t("95 % interval"),
                    "right",
                    t(
                        "Where the figure would be for other text of the same kind, with 95 % probability: the difference of the "
                        "models for loss (nats/token) and perplexity (percent), the figure of the model file itself for the other rows."
                    ),
                ),
            )
        ]
        rows: list[dict[str, Any]] = [
            {"what": t(ROWS[row][0]), "fp32": a, "bq4": b, "interval": interval, "help": t(ROWS[row][1])}
            for row, (a, b, interval) in comparison_rows(report).items()
        ]
        explained_table(t, columns, rows, "what").props("flat dense hide-bottom")


def sensitivity_of(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Layer -> matrix -> KL divergence in nats per token if only this matrix is rounded; empty if it was not measured."""
    layers: dict[str, dict[str, float]] = {}
    for tensor in objects(report.get("tensors")):
        name, divergence = str(tensor.get("name")), number(tensor.get("kl"))
        if divergence is not None:
            found = re.fullmatch(r"layers\.(\d+)\.(.+?)(\.weight)?", name)
            layer, matrix = (found[1], found[2].split(".")[-1]) if found else ("–", name.removesuffix(".weight"))
            layers.setdefault(layer, {})[matrix] = divergence
    return layers


def _map(t: Words, report: dict[str, Any]) -> None:
    layers = sensitivity_of(report)
    if not layers:
        return
    columns = list(dict.fromkeys(matrix for row in layers.values() for matrix in row))
    with ui.element("section").classes("card"):
        explained_heading(
            t,
            t("Sensitivity of the matrices"),
            t("How much the predictions change if only this matrix is rounded as in the model file (KL divergence, nats per token)."),
        )
        ui.echart(heat_map(layers, columns, t("layer"), t("nats/token"))).classes("chart")


@contextlib.contextmanager
def _explained(t: Words, name: str, setting: str) -> Iterator[None]:
    """A field for a setting, with a "?" beside it."""
    with ui.element("div").classes("line").style("flex-wrap:nowrap"):
        yield
        help_button(t, name, help_of(setting, t.language))


def _quantize(dashboard: Dashboard, t: Words, folder: Path) -> None:
    with ui.element("section").classes("card"):
        heading(t("Quantize again"), 2)
        if not (folder / "export" / "npy" / "manifest.json").is_file():
            ui.label(t("The training has to end first.")).classes("soft")
            return
        settings = {setting.path: setting for setting in form()}
        config = configuration(folder)
        quant, qat_steps = (config.quant, config.qat.steps) if config else (QuantConfig(), None)
        with _explained(t, t("Weights"), "quant.weights"):
            weights = ui.select(list(settings["quant.weights"].choices), value=quant.weights, label=t("Weights")).props("dense outlined")
        with _explained(t, t("Calibration"), "quant.calibration"):
            choices = list(settings["quant.calibration"].choices)
            method = ui.select(choices, value=quant.calibration, label=t("Calibration")).props("dense outlined")
        with _explained(t, t("Calibration tokens"), "quant.calibration_tokens"):
            tokens = ui.number(t("Calibration tokens"), value=quant.calibration_tokens, min=1024, precision=0).props("dense outlined")
        with _explained(t, t("Steps of training with 4-bit weights (QAT)"), "qat.steps"):
            qat = ui.number(t("Steps of training with 4-bit weights (QAT)"), value=qat_steps, min=0, precision=0).props("dense outlined")

        def start() -> None:
            words = ["qat", str(folder), f"--quant.weights={weights.value}", f"--quant.calibration={method.value}"]
            words += [f"--quant.calibration_tokens={int(tokens.value or quant.calibration_tokens)}"]
            words += [f"--qat.steps={'null' if qat.value is None else int(qat.value)}"]
            _start(dashboard, t, folder, words)

        ui.button(t("Quantize and write the report card"), icon="compress", on_click=start).props("no-caps outline")


class _Downloads:
    """Makes files for download, one at a time."""

    def __init__(self, dashboard: Dashboard, t: Words, folder: Path) -> None:
        self.dashboard, self.t, self.folder = dashboard, t, folder
        found = versions(folder)
        names = {
            "4bit": t("{n}-bit model", n=file_bits(read_report(folder).content, folder)),
            "fp32": t("FP32 model"),
            "best": t("Best checkpoint"),
            "start": t("Before fine-tuning"),
        }
        with ui.element("section").classes("card"):
            explained_heading(
                t,
                t("Download"),
                t(
                    "Every file is read again after it was written, and its model must generate the same tokens as the original; "
                    "otherwise it is not offered."
                ),
            )
            if not found:
                ui.label(t("There is no model yet.")).classes("soft")
                return
            options = {version: names.get(version, f"{t('Checkpoint')} {version}") for version in found}
            self.version = ui.select(options, value=found[0], label=t("Model")).props("dense outlined")
            self.format = ui.select({name: t(FORMAT_NAMES[name]) for name in FORMATS}, value="bullet", label=t("Format")).props(
                "dense outlined"
            )
            with ui.element("div").classes("line"):
                self.button = ui.button(t("Make the file and check it"), icon="download", on_click=self._make).props("no-caps unelevated")
                self.spinner = ui.spinner()
                self.spinner.set_visibility(False)
            self.result = ui.element("div").classes("column").props("aria-live=polite")
            for file, label in (("report.html", t("Report card")), ("report.json", "report.json"), ("metrics.jsonl", "metrics.jsonl")):
                if (folder / file).is_file():
                    ui.link(label, f"/files/{quote(folder.name, safe='')}/{file}", new_tab=file == "report.html")

    async def _make(self) -> None:
        t = self.t
        self.button.disable()
        self.spinner.set_visibility(True)
        self.result.clear()
        try:
            made = await export_in_process(self.dashboard.workspace, f"{self.folder.name}/{self.version.value}", self.format.value)
        except BulletError as error:
            with self.result:
                ui.label(str(error)).classes("bad")
        else:
            with self.result:
                address = f"/downloads/{quote(self.folder.name, safe='')}/{quote(made['file'], safe='')}"
                ui.link(f"{made['file']} ({show.file_size(made['bytes'])})", address).props("download")
                for text, values in made["checks"]:
                    ui.label(f"✓ {t(text, **values)}").classes("good small")
        finally:
            self.button.enable()
            self.spinner.set_visibility(False)

"""Finds the runs of a workspace and summarizes them from their folders alone.

A summary is made from small files and the end of metrics.jsonl, and kept until one of these files changes, also in a file for the next
start of the dashboard. So a list of a thousand runs costs a few file dates each.
"""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from bulletlm.config.loader import RECORD_KEY, load_config
from bulletlm.config.schema import Config
from bulletlm.dashboard import processes
from bulletlm.dashboard.metrics import read_tail
from bulletlm.dashboard.processes import number, own_folder, read_record, section
from bulletlm.dashboard.reports import REPORT_FILE, StoredReport, decisions_of, read_report, titles_in
from bulletlm.dashboard.words import LANGUAGES
from bulletlm.dashboard.workspace import Workspace, free_name, is_run
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import write_text
from bulletlm.pipeline.run_folder import PROCESS
from bulletlm.quant.types import bits_of
from bulletlm.train.schedule import count_steps

State = Literal["running", "waiting", "finished", "stopped", "failed"]

STAGE_NAMES = {
    "data": "Cleaning the text",
    "tokenizer": "Learning the vocabulary",
    "tokens": "Encoding the text",
    "train": "Training",
    "export": "Writing the FP32 model",
    "qat": "Training the 4-bit weights",
    "build": "Quantizing",
    "evaluate": "Writing the report card",
}
"""The stages of a run, and what the pages call them while they run."""

STAGES = tuple(STAGE_NAMES)

STOPPED_CODES = (130, -2, -15)
"""Exit codes of a run that was stopped by request: Ctrl-C, SIGINT, SIGTERM."""

WATCHED = (
    "config.json",
    "stages.json",
    "metrics.jsonl",
    REPORT_FILE,
    "model.bullet",
    PROCESS,
    "checkpoints/best/state.json",
    "dashboard/configuration.json",
    "dashboard/process.json",
    "dashboard/exit.json",
    "dashboard/queued.json",
)
"""Files whose change makes a summary old."""

INDEX_VERSION = 4

MOST_TOKENS = 10**15
"""A larger number of tokens in a file is damage."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in one row of the list.

    Attributes:
        name: of the run, which is the name of its folder.
        state: running, waiting (in the queue), finished, stopped or failed.
        stage: the stage that runs, or at which it stopped; "" if it is finished or has not begun.
        step: last training step; `total_steps` is the length of the training, None before it is known.
        eta: seconds until the training ends at its present speed; None if it is not training.
        best_loss: lowest validation loss, nats per token; None before the first evaluation.
        bits_per_byte: the same in bits per byte of text, from the last evaluation.
        gap: relative change of the perplexity from FP32 to the model file; None before the report.
        decisions: of the report card, name of the verdict -> safe, limited or stop; empty before the report.
        titles: of the report card, language -> name of the verdict -> a sentence; empty before the report.
        report_problem: what is wrong with report.json, one of reports.PROBLEMS; "" if it is not damaged.
        file_bytes: size of model.bullet; None if there is none.
        file_bits: of a weight of it, without the scales of the blocks: 4, 8, 16 or 32.
        parameters: of the model; None before it is known.
        tokens_per_s: speed of the last training step.
        changed: when a file of the run changed last, seconds since 1970.
        message: why it failed.
    """

    name: str
    state: State
    stage: str
    step: int
    total_steps: int | None
    eta: float | None
    best_loss: float | None
    bits_per_byte: float | None
    gap: float | None
    decisions: dict[str, str]
    titles: dict[str, dict[str, str]]
    report_problem: str
    file_bytes: int | None
    file_bits: int
    parameters: int | None
    tokens_per_s: float | None
    changed: float
    message: str

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        if self.state == "finished" or STAGES.index(self.stage or "data") > STAGES.index("train"):
            return 1.0
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


class Runs:
    """The runs of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._index = workspace.state / "index.json"
        self._known: dict[str, tuple[list[Any], Summary]] = {}
        self._saved = True
        self._lock = threading.Lock()  # pages ask from several threads
        content = read_record(self._index)
        if content.get("version") == INDEX_VERSION:
            with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
                self._known = {name: (signature, Summary(**values)) for name, (signature, values) in content["runs"].items()}

    def names(self) -> list[str]:
        """The names of all runs."""
        try:
            with os.scandir(self.workspace.runs) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith(".") and is_run(Path(entry.path)))
        except OSError:
            return []

    def all(self) -> list[Summary]:
        """The summaries of all runs, the one that changed last first."""
        try:
            with os.scandir(self.workspace.runs) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except OSError:
            names = []
        with self._lock:
            found = [summary for name in names if (summary := self._find(name))]
            for gone in self._known.keys() - set(names):
                del self._known[gone]
                self._saved = False
            self._save()
        return sorted(found, key=lambda summary: -summary.changed)

    def get(self, name: str) -> Summary:
        """The summary of one run.

        Raises:
            ConfigError: there is no such run.
        """
        self.workspace.run_folder(name)
        with self._lock:
            found = self._find(name)
        if found is None:
            raise ConfigError(f"there is no run {name!r}")
        return found

    def _find(self, name: str) -> Summary | None:
        folder = self.workspace.runs / name
        signature = _signature(folder)
        if signature[0] is None and signature[WATCHED.index("dashboard/configuration.json")] is None:
            return None
        known = self._known.get(name)
        if known and known[0] == signature and known[1].state not in ("running", "waiting"):
            return known[1]
        summary = summarize(folder)
        if known is None or known[1] != summary or known[0] != signature:
            self._known[name] = (signature, summary)
            self._saved = self._saved and summary.state == "running"
        return summary

    def _save(self) -> None:
        if self._saved or not self.workspace.folder.is_dir():
            return
        runs = {name: [signature, asdict(summary)] for name, (signature, summary) in self._known.items()}
        with contextlib.suppress(BulletError):  # a full disk: the index is only for speed
            write_text(self._index, json.dumps({"version": INDEX_VERSION, "runs": runs}, ensure_ascii=False))
        self._saved = True

    def delete(self, names: Iterable[str]) -> list[Path]:
        """Move run folders to the trash folder of the workspace; returns where they are now.

        Raises:
            ConfigError: a run does not exist or is running.
        """
        folders = [self.workspace.run_folder(name) for name in names]
        for folder in folders:
            if processes.find(folder) is not None:
                raise ConfigError(f"{folder.name} is running: stop it before you delete it")
        trash = self.workspace.state / "trash"
        trash.mkdir(parents=True, exist_ok=True)
        moved = []
        for folder in folders:
            target = trash / free_name(f"{folder.name} {time.strftime('%Y-%m-%d %H.%M.%S')}", trash)
            shutil.move(folder, target)
            moved.append(target)
        return moved


def _signature(folder: Path) -> list[Any]:
    """Date and size of every watched file; None for one that does not exist."""
    found: list[Any] = []
    base = str(folder)
    for name in WATCHED:
        try:
            status = os.stat(f"{base}/{name}")  # noqa: PTH116 - eleven thousand times for a thousand runs
            found.append([status.st_mtime_ns, status.st_size])
        except OSError:
            found.append(None)
    return found


def summarize(folder: Path) -> Summary:
    """The summary of a run folder. Damaged files only leave gaps in it."""
    own = own_folder(folder)
    done = processes.done_stages(folder)
    alive = processes.find(folder) is not None
    ended = processes.ended(folder)
    train, evaluated, end = read_tail(folder / "metrics.jsonl")
    best = read_record(folder / "checkpoints" / "best" / "state.json")
    stored = read_report(folder) if "evaluate" in done else StoredReport()
    report = stored.content
    step = int(number(train.get("step")) or 0)
    total = step if end else total_steps(folder)
    speed = number(train.get("tokens_per_s"))
    stage = "" if "evaluate" in done else next((name for name in STAGES if name not in done), "")
    state: State
    message = ""
    if alive:
        state = "running"
    elif (own / "queued.json").exists():
        state = "waiting"
    elif "evaluate" in done and (ended is None or ended.code == 0):
        state = "finished"
    elif ended is None or ended.code in STOPPED_CODES or ended.code == 0:
        state = "stopped"
    else:
        state, message = "failed", processes.failure(folder)
    eta = None
    if alive and stage == "train" and step and total and speed:
        per_step = (number(train.get("tokens")) or 0) / step
        eta = max(0, total - step) * per_step / speed
    loss = number(best.get("val_loss"))
    return Summary(
        name=folder.name,
        state=state,
        stage=stage if step or done or alive else "",
        step=step,
        total_steps=total,
        eta=eta,
        best_loss=loss if loss is not None else number(evaluated.get("val/loss")),
        bits_per_byte=number(evaluated.get("val/bpb")),
        gap=number(section(report, "comparison").get("perplexity_change")),
        decisions=decisions_of(report),
        titles={language: titles for language in LANGUAGES if (titles := titles_in(language, report))},
        report_problem=stored.problem,
        file_bytes=_size(folder / "model.bullet"),
        file_bits=file_bits(report, folder),
        parameters=_parameters(report, folder),
        tokens_per_s=speed,
        changed=max((found[0] / 1e9 for found in _signature(folder) if found), default=0.0),
        message=message,
    )


def configuration(folder: Path) -> Config | None:
    """The configuration of a run: the resolved one of config.json, or what it was started with; None if neither can be read."""
    for path in (folder / "config.json", own_folder(folder) / "configuration.json"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if (found := _read_configuration(path, status.st_mtime_ns, status.st_size)) is not None:
                return found
    return None


@lru_cache(maxsize=256)
def _read_configuration(path: Path, changed: int, size: int) -> Config | None:
    """The configuration in a file; `changed` and `size` tell that the file is another one."""
    try:
        values = read_record(path)
        values.pop(RECORD_KEY, None)
        return Config.model_validate(values) if path.name == "config.json" and values else load_config(path)
    except (BulletError, ValueError):
        return None


def total_steps(folder: Path) -> int | None:
    """The length of the training in steps; None before the text is tokenized and if total_steps does not give it."""
    config = configuration(folder)
    if config is None:
        return None
    index = read_record(folder / "tokens" / "index.json")
    tokens = section(index, "train").get("tokens")
    if type(tokens) is not int or not 0 <= tokens <= MOST_TOKENS:
        return config.train.total_steps
    return count_steps(config.train, max(1, (tokens - config.model.max_seq_len) // config.model.max_seq_len))[0]


def _parameters(report: dict[str, Any], folder: Path) -> int | None:
    if type(parameters := section(report, "model").get("parameters")) is int:
        return parameters
    config = configuration(folder)
    if config is None:
        return None
    written = read_record(folder / "tokens" / "index.json").get("vocab_size")
    with contextlib.suppress(ConfigError):
        return config.model.shape(written if type(written) is int else config.tokenizer.vocab_size).n_parameters
    return None


def file_bits(report: dict[str, Any], folder: Path) -> int:
    """Bits of a weight in the model file: of the report card, or before it is written, of the settings."""
    config = configuration(folder)
    return bits_of(section(report, "quantised").get("weights", config.quant.weights if config else None))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None

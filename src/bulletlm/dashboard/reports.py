"""Reads report.json of a run for the pages: what can be read of it, and a sentence if it is damaged."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bulletlm.dashboard.processes import MOST_RECORD_BYTES, section
from bulletlm.files import read_regular

REPORT_FILE = "report.json"

UNREADABLE = "The report card cannot be read: report.json is not readable, or it is no file."
TOO_LARGE = "The report card cannot be read: report.json is much larger than a report card can be."
NOT_JSON = "The report card cannot be read: report.json is damaged, it is not complete JSON."
WRONG_FORM = "The report card is damaged: parts of report.json have a wrong form. The pages show the rest."
PROBLEMS = (UNREADABLE, TOO_LARGE, NOT_JSON, WRONG_FORM)
"""What can be wrong with report.json, in English."""

REMEDY = "To write the report card again, run this command in the folder of the dashboard: {command}"

FORMS: tuple[tuple[tuple[str, ...], type], ...] = (
    *(((name,), dict) for name in ("verdicts", "model", "fp32", "bq4", "comparison", "generations", "settings")),
    *((("verdicts", name), dict) for name in ("quantization", "usefulness")),
    (("generations", "rows"), list),
    (("tensors",), list),
)
"""Parts of a report that the pages show, and the type of each. A report of an earlier version may lack some."""


@dataclass(frozen=True)
class StoredReport:
    """A report as it was found.

    Attributes:
        content: the report; empty if there is none, or if it cannot be read.
        problem: one of PROBLEMS; "" for a report that is not damaged, or does not exist.
    """

    content: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_report(run: Path) -> StoredReport:
    """The report of the run folder `run`."""
    path = run / REPORT_FILE
    try:
        if path.stat().st_size > MOST_RECORD_BYTES:
            return StoredReport(problem=TOO_LARGE)
        content = json.loads(read_regular(path, MOST_RECORD_BYTES))
    except FileNotFoundError:
        return StoredReport()
    except OSError:  # as a folder of this name, or a file of another user
        return StoredReport(problem=UNREADABLE)
    except (ValueError, RecursionError):
        return StoredReport(problem=NOT_JSON)
    if not isinstance(content, dict):
        return StoredReport(problem=WRONG_FORM)
    return StoredReport(content, "" if _has_form(content) else WRONG_FORM)


def _has_form(report: Mapping[str, Any]) -> bool:
    """Whether every part of `FORMS` that the report has is of the right type."""
    found = ((section(report, *path[:-1]).get(path[-1]), kind) for path, kind in FORMS)
    return all(value is None or isinstance(value, kind) for value, kind in found)


def verdicts_in(language: str, report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The verdicts of a report in a language of the pages; in English where it cannot be judged again, as one of an earlier version."""
    stored = {name: verdict for name, verdict in section(report, "verdicts").items() if isinstance(verdict, dict)}
    if language == "en" or not stored:
        return stored
    from bulletlm.config.schema import LimitsConfig
    from bulletlm.evaluate.verdicts import judge

    try:
        limits = LimitsConfig.model_validate(report["settings"]["report"]["limits"])
        return cast("dict[str, dict[str, Any]]", judge(cast("Any", report), limits, language))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return stored


def titles_in(language: str, report: dict[str, Any]) -> dict[str, str]:
    """The title of every verdict that has one, in a language of the pages: name of the verdict -> title."""
    titles = {name: verdict.get("title") for name, verdict in verdicts_in(language, report).items()}
    return {name: title for name, title in titles.items() if isinstance(title, str) and title}


def decisions_of(report: Mapping[str, Any]) -> dict[str, str]:
    """What the verdicts decide: name of the verdict -> safe, limited or stop; without those that judge nothing and have no title."""
    found = {name: verdict for name, verdict in section(report, "verdicts").items() if section(verdict).get("title")}
    return {name: verdict["decision"] for name, verdict in found.items() if isinstance(verdict.get("decision"), str)}

"""Tests that the pages show what there is of a report that is damaged or of another version, without a browser."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies

pytest.importorskip("nicegui", reason="nicegui is not installed")

from running_dashboard import RunningDashboard

from bulletlm.dashboard import reports, show
from bulletlm.dashboard.figures import report_problem, shown_verdicts
from bulletlm.dashboard.pages.compare import common_answers
from bulletlm.dashboard.pages.export import comparison_rows, sensitivity_of
from bulletlm.dashboard.pages.run import _data_facts, _tokenizer_facts
from bulletlm.dashboard.reports import NOT_JSON, TOO_LARGE, UNREADABLE, WRONG_FORM, decisions_of, read_report, titles_in, verdicts_in
from bulletlm.dashboard.runs import summarize
from bulletlm.dashboard.words import LANGUAGES, Words

REPORT_KEYS = [
    *("comparison", "fp32", "bq4", "intervals", "loss_delta", "low", "high", "mean", "kl", "top1_agreement", "loss", "bytes", "tensors"),
    *("name", "generations", "rows", "prompt", "text", "verdicts", "quantization", "title", "decision", "settings", "report", "limits"),
    *("training", "train", "characters", "rules", "rejected", "changed", "vocab_size", "languages", "tokens_per_word", "chars_per_token"),
]

JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(max_size=4),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.sampled_from(REPORT_KEYS), inner, max_size=6),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None)
@given(report=strategies.dictionaries(strategies.sampled_from(REPORT_KEYS), JSON, max_size=8))
def test_any_json_object_is_shown_as_a_report(tmp_path_factory: pytest.TempPathFactory, report: dict[str, Any]) -> None:
    t = Words("en")
    assert all(isinstance(text, str) for row in comparison_rows(report).values() for text in row)
    assert all(isinstance(value, float) for layer in sensitivity_of(report).values() for value in layer.values())
    assert all(isinstance(text, str) for row in [*_data_facts(t, report), *_tokenizer_facts(t, report)] for text in row)
    assert all(isinstance(text, str) for text in decisions_of(report).values())
    for language in LANGUAGES:
        assert all(isinstance(verdict, dict) for verdict in verdicts_in(language, report).values())
        assert all(isinstance(text, str) for text in titles_in(language, report).values())
    folders = [tmp_path_factory.getbasetemp() / name for name in "ab"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    assert read_report(folders[0]).problem in ("", WRONG_FORM)
    assert all(len(found) == 2 for found in common_answers(folders).values())


WRONG = {
    "verdicts": [],
    "comparison": 3,
    "fp32": [],
    "bq4": {"loss": "x", "bytes": None},
    "generations": {"rows": 7},
    "tensors": [1],
    "settings": {"report": None},
    "model": {"parameters": True},
}


def damage(report: Path, problem: str) -> None:
    """Damage a report.json so that it has `problem`."""
    if problem == NOT_JSON:
        report.write_bytes(report.read_bytes()[:1000])
    elif problem == WRONG_FORM:
        report.write_text(json.dumps(WRONG), encoding="utf-8")
    elif problem == UNREADABLE:
        report.unlink()
        report.mkdir()
    else:
        with open(report, "r+b") as file:
            file.truncate(reports.MOST_RECORD_BYTES + 1)


PROBLEMS = {"notjson": NOT_JSON, "form": WRONG_FORM, "folder": UNREADABLE, "large": TOO_LARGE}


def test_a_damaged_report_is_named_and_the_rest_is_shown(dashboard: RunningDashboard, micro_run: Path) -> None:
    for name, problem in PROBLEMS.items():
        run = dashboard.folder / "runs" / name
        shutil.copytree(micro_run, run)
        damage(run / "report.json", problem)
        assert read_report(run).problem == problem
        found = summarize(run)
        assert found.state == "finished" and found.report_problem == problem and found.best_loss and found.parameters
        assert [verdict.look for verdict in shown_verdicts(Words("en"), found)] == ["warn"]
    both = "/compare?" + "&".join(f"run={name}" for name in PROBLEMS)
    for language in LANGUAGES:
        cookie = {"Cookie": f"language={language}"}
        sentences = {name: report_problem(Words(language), name, problem) for name, problem in PROBLEMS.items()}
        for path in (
            "/",
            both,
            "/new",
            "/playground",
            *(f"/{page}{name}" for name in PROBLEMS for page in ("run/", "export/", "score?run=")),
        ):
            status, content = dashboard.get(path, **cookie)
            assert status == 200, path
            shown = [sentence for name, sentence in sentences.items() if name in path or path == "/"]
            for sentence in shown:
                assert sentence in content.decode("utf-8"), path


def test_a_whole_report_has_no_problem(micro_run: Path, tmp_path: Path) -> None:
    assert read_report(micro_run).problem == ""
    assert (read_report(tmp_path).content, read_report(tmp_path).problem) == ({}, "")


def test_long_numbers_have_a_short_form() -> None:
    assert show.shortened("1,234,567 tokens/s", "en") == "", "it fits"
    assert show.shortened("≈ 12,345,678", "en") == "≈ 12.3M"
    assert show.shortened("12,345,678", "mr") == "12.3\u00a0दशलक्ष"
    assert show.shortened("3 min 20 s", "en") == show.shortened(show.NOTHING, "en") == ""


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    assert show.span(200, "en").split(" ") == ["3\u00a0min", "20\u00a0s"]
    assert show.parameters(1_400_000, "mr").split(" ") == ["1.4\u00a0दशलक्ष"]
    assert show.file_size(1_400_000).split(" ") == ["1.4\u00a0MB"]
    assert show.unbroken("≈ 1,234") == "≈\u00a01,234"

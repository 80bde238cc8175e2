"""Tests the end of the demo: the new model's answers beside those of the packaged model."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bulletlm.cli import app
from bulletlm.cli.inputs import find_configuration
from bulletlm.cli.output import print_summary
from bulletlm.cli.side_by_side import WHAT_TO_EXPECT, print_side_by_side
from bulletlm.evaluate.generation import answer_prompts
from bulletlm.evaluate.prompts import Prompt
from bulletlm.files import read_json
from bulletlm.progress import SilentProgress
from bulletlm.runtime import load


def words(text: str) -> list[str]:
    return text.split()


@pytest.fixture
def other(micro_run: Path, tmp_path: Path) -> Path:
    """A model as the package has one."""
    return Path(shutil.copy(micro_run / "model.bullet", tmp_path / "packaged-name.bullet"))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_both_models_answer_the_sample_questions_of_the_report(width: int, micro_run: Path, other: Path) -> None:
    report = read_json(micro_run / "report.json")
    console = Console(file=io.StringIO(), width=width)
    print_side_by_side(console, report, other)
    shown = words(console.file.getvalue())  # type: ignore[attr-defined]
    assert " ".join(words(WHAT_TO_EXPECT)) in " ".join(shown)
    rows = [report["generations"]["rows"][index] for index in report["generations"]["samples"]]
    model = load(other)
    prompts = [Prompt(row["prompt"], row["language"], row["kind"]) for row in rows]
    answers = answer_prompts(model, prompts, model.sampling, report["generations"]["seed"], SilentProgress())
    missing = [
        word for row, answer in zip(rows, answers, strict=True) for word in words(f"{row['prompt']} {row['bq4']['text']} {answer.text}")
        if len(word) < 10 and word.isascii() and word.isalpha() and word not in shown
    ]  # fmt: skip
    assert rows and not missing
    assert shown.count("packaged-name") >= len(rows)


def test_a_report_without_a_training_is_shown_too(micro_run: Path, other: Path) -> None:
    report = read_json(micro_run / "report.json") | {"training": None}
    console = Console(file=io.StringIO(), width=80)
    print_side_by_side(console, report, other)
    assert "Your new model:" in console.file.getvalue()  # type: ignore[attr-defined]


def test_only_the_demo_of_the_package_is_shown_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bulletlm.formats.packaged.MODELS", tmp_path)
    shutil.copy(other, "marathi-english.bullet")
    (tmp_path / "mine").mkdir()
    for name in ("mine/demo.jsonc", "mine/other.jsonc"):
        Path(name).write_text(json.dumps({"data": {"sources": ["sample"]}}), encoding="utf-8")
    found = {name: find_configuration([name]) for name in ("demo", "quick", "mine/demo.jsonc", "mine/other.jsonc")}
    shown = {name: app._model_beside(path) for name, path in found.items() if path}
    assert shown == {"demo": tmp_path / "marathi-english.bullet", "quick": None, "mine/demo.jsonc": None, "mine/other.jsonc": None}


def test_the_summary_names_both_ways_to_chat(micro_run: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(micro_run, beside=other)
    ends = capsys.readouterr().out.rstrip().splitlines()[-3:]
    assert ends[0].startswith("Talk with it:") and ends[0].endswith("model.bullet")
    assert ends[1].startswith("Talk with packaged-name:") and ends[1].endswith(" chat")
    print_summary(micro_run)
    assert "packaged-name" not in capsys.readouterr().out


def test_the_summary_names_the_command_for_a_page(
    micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    print_summary(micro_run)
    line = capsys.readouterr().out.rstrip().splitlines()[-1]
    found = re.fullmatch(r"Send it:  \S*bullet (convert .*)  \(a page that opens in any browser\)", line)
    assert found
    arguments = shlex.split(found[1])
    with pytest.raises(SystemExit, match="0"):
        app.main(arguments)
    assert Path(arguments[-1]).read_bytes().startswith(b"<!doctype html>")

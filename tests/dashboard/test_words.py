"""Tests that every text of the pages has a Marathi translation, with the same placeholders."""

import ast
import re
from collections.abc import Iterator

import pytest

from bulletlm.dashboard.chooser import HOURS
from bulletlm.dashboard.figures import DECISIONS, FIGURES, SUBJECTS, VERDICTS
from bulletlm.dashboard.forms import LIMITS, Setting, form
from bulletlm.dashboard.frame import PAGES
from bulletlm.dashboard.pages.compare import CURVES
from bulletlm.dashboard.pages.export import FORMAT_NAMES, ROWS
from bulletlm.dashboard.pages.new_run import SECTIONS
from bulletlm.dashboard.pages.playground import CONTROLS
from bulletlm.dashboard.pages.run import AXES, CHARTS
from bulletlm.dashboard.pages.runs import STATES
from bulletlm.dashboard.pages.score import MEANINGS, NAMES
from bulletlm.dashboard.reports import PROBLEMS, REMEDY
from bulletlm.dashboard.runs import STAGE_NAMES
from bulletlm.dashboard.settings_mr import HELP, TITLES
from bulletlm.dashboard.words import MARATHI, Words
from paths import ROOT

FOLDER = ROOT / "src" / "bulletlm" / "dashboard"

TEXT_ARGUMENTS = {"t": (0,), "page": (1,), "tile": (1, 3), "_button": (0,), "_facts": (0, 1)}
"""Functions that show a text, and which of their arguments it is."""


def shown_texts() -> Iterator[str]:
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                for place in TEXT_ARGUMENTS.get(name, ()):
                    if place < len(node.args) and isinstance(node.args[place], ast.Constant):
                        yield str(node.args[place].value)  # type: ignore[attr-defined]
            elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[1], ast.Dict):
                yield from (part.value for part in node.elts[:1] if isinstance(part, ast.Constant))  # a warning and its values
    yield from (name for _, name in PAGES)
    yield from (*LIMITS.values(), *HOURS.values())
    yield from (*STATES, *PROBLEMS, REMEDY)
    yield from (*SECTIONS.values(), *AXES, *STAGE_NAMES.values())
    yield from (*SUBJECTS.values(), *DECISIONS.values(), *FORMAT_NAMES.values(), *NAMES.values(), *MEANINGS.values())
    for title, explanation in (*FIGURES.values(), *VERDICTS.values(), *ROWS.values(), *((title, text) for title, _, text in CURVES)):
        yield from (title, explanation)
    for _, label, *_, text in CONTROLS:
        yield from (label, text)
    for title, unit, curves, _, explanation in CHARTS:
        yield from (title, unit, explanation, *(label for label, _ in curves))


TEXTS = sorted(set(shown_texts()) - {""})


def test_texts_are_found() -> None:
    assert len(TEXTS) > 100


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_has_a_translation(text: str) -> None:
    assert text in MARATHI, "add it to words.py"
    placeholders = re.compile(r"{\w+}")
    assert sorted(placeholders.findall(text)) == sorted(placeholders.findall(MARATHI[text]))


def test_no_translation_is_left_over() -> None:
    assert set(MARATHI) <= set(TEXTS)


SHARED = re.compile(r"\d+(?:\.\d+)?|\w+_\w+|\"[\w-]+\"|\[\w+\]|[a-z]+\.[a-z_.]+[a-z]|\.[a-z]{2,}\b")
"""What a translation does not change: numbers, names of settings, values in quotation marks, endings of files."""


@pytest.mark.parametrize("setting", form(), ids=lambda setting: setting.path)
def test_every_setting_is_explained_in_marathi(setting: Setting) -> None:
    text = HELP[setting.path]
    assert re.search("[\u0900-\u097f]", text)
    assert [part for part in SHARED.findall(setting.help) if part not in text] == [], "the English text has changed: change settings_mr.py"
    assert setting.path in TITLES or not setting.basic
    assert setting.section in SECTIONS


def test_no_explanation_is_left_over() -> None:
    assert set(HELP) == {setting.path for setting in form()}
    assert set(TITLES) == {setting.path for setting in form() if setting.basic}


def test_words() -> None:
    assert Words("en")("{time} left", time="3 s") == "3 s left"
    assert re.search("[\u0900-\u097f]", Words("mr")("Runs"))

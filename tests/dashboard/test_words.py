"""Tests that every text of the pages has a Marathi translation, with the same placeholders."""

import ast
import re
from collections.abc import Iterator

import pytest

from bulletlm.dashboard.choice_mr import choice_text
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
from bulletlm.pipeline.auto import mark_given
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


def texts_of_the_choice() -> Iterator[str]:
    """The notes and reasons that the choice of settings can give, with 7 in place of their numbers."""
    for name in ("auto", "auto_start"):
        module = ast.parse((ROOT / "src" / "bulletlm" / "pipeline" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(module):
            found: list[ast.AST] = []
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "notes.append":
                found = [node.args[0]]
            elif isinstance(node, ast.Assign):
                target = ast.unparse(node.targets[0])
                if target == "why" and isinstance(node.value, ast.Dict):
                    found = [value for value in node.value.values if value is not None]
                elif target == "fit" or target.startswith("why["):
                    found = [node.value]
                if isinstance(node.value, ast.IfExp):
                    found = [node.value.body, node.value.orelse] if found else []
            for text in found:
                assert isinstance(text, ast.Constant | ast.JoinedStr), ast.unparse(text)
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in parts)


def test_the_choice_of_settings_is_explained_in_marathi() -> None:
    texts = list(texts_of_the_choice())
    assert len(texts) > 12
    for text in texts:
        assert choice_text(text, "en") == re.sub(r" \(--[\w-]+\)", "", text)
        assert not re.search(r"(?<!-)\b[a-z]{3,}", choice_text(text, "mr")), text


def test_values_inside_a_text_of_the_choice_are_translated() -> None:
    assert choice_text("3 times over the text, about 1.5 h on this machine", "mr").endswith("1.5 तास")
    assert choice_text("1.4 million parameters: the best for this time", "mr").startswith("1.4 दशलक्ष पॅरामीटर: या वेळेत")
    files = choice_text("not read: b; c: d.doc: a picture; x.jpg: a picture; and 3 more", "mr")
    assert files == "वाचले नाही: b; c: d.doc: चित्र; x.jpg: चित्र; आणि आणखी 3"
    assert "command line" not in choice_text(mark_given({}, {"name": "x"})["name"], "en")
    assert choice_text(mark_given({}, {"name": "x"})["name"], "mr") == "तुम्ही दिलेले मूल्य"
    assert choice_text("a text of another kind", "mr") == "a text of another kind"


def test_words() -> None:
    assert Words("en")("{time} left", time="3 s") == "3 s left"
    assert re.search("[\u0900-\u097f]", Words("mr")("Runs"))

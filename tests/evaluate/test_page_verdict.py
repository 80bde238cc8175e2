"""Tests that the first screen of the report says in plain words what each verdict means."""

import re
from typing import Any

import pytest

from bulletlm.evaluate.page_verdict import verdict_section
from bulletlm.evaluate.report_types import Decision, Status, Verdict
from bulletlm.evaluate.words import Words

FIT = "The figure “answer_fit” is {share}: in models with a figure this low, readers found"
LAST = "do not rely on its answers"


def figure(name: str, status: Status, value: float = 0.5) -> Any:
    return {
        "name": name,
        "label": name,
        "unit": "share",
        "value": value,
        "low": None,
        "high": None,
        "limit": 0.75,
        "better": "higher",
        "setting": f"report.limits.{name}",
        "status": status,
        "text": "",
    }


def verdict(decision: Decision, **figures: Any) -> Verdict:
    found = [figure(name, *given) for name, given in figures.items()]
    return {"decision": decision, "title": "t", "deciding": [*figures][:3], "figures": found, "causes": [], "remedies": []}


def meanings(file: Verdict, model: Verdict, language: str = "en") -> list[str]:
    """The sentences below the titles."""
    page = verdict_section({"quantization": file, "usefulness": model}, Words(language))
    return re.findall(r'<p class="title">t</p><p>(.*?)</p>', page)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("right_language", "another language"),
        ("loops", "repeats itself"),
        ("invented_words", "do not exist"),
        ("broken_letters", "do not exist"),
        ("copied", "repeats its training text"),
        ("answer_fit", "nothing to do with the question"),
        ("question_use", "nothing to do with the question"),
        ("on_topic", "nothing to do with the question"),
        ("over_ngram", "not learned enough"),
        ("finished", "not learned enough"),
    ],
)
def test_every_broken_limit_is_explained(name: str, says: str) -> None:
    file, model = meanings(verdict("safe"), verdict("stop", **{name: ("broken",)}))
    assert "small copy" in file and says in model and LAST in model


@pytest.mark.parametrize("name", ["contamination", "below_training"])
def test_a_model_that_knows_its_test_gets_no_other_judgement(name: str) -> None:
    assert "knows the text" in meanings(verdict("safe"), verdict("stop", **{name: ("broken",), "answer_fit": ("broken",)}))[1]


@pytest.mark.parametrize(("fit", "few"), [(0.5, True), (0.65, True), (0.72, False)])
def test_how_many_answers_are_good_is_only_said_where_readers_graded(fit: float, few: bool) -> None:
    text = meanings(verdict("safe"), verdict("stop", answer_fit=("broken", fit)))[1]
    assert (FIT.format(share=f"{100 * fit:.1f}\N{NO-BREAK SPACE}%") in text) == few


def test_the_three_decisions_differ_in_both_languages() -> None:
    decisions: tuple[Decision, ...] = ("safe", "limited", "stop")
    for language in ("en", "mr"):
        found = [meanings(verdict(each), verdict(each, answer_fit=("broken",)), language) for each in decisions]
        assert len({text for pair in found for text in pair}) == 6

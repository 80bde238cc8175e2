"""Tests the measures that tell answers to a question from answers that would serve any question."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.config.schema import LimitsConfig
from bulletlm.evaluate.answer_fit import answer_fit
from bulletlm.evaluate.chrf import chrf
from bulletlm.evaluate.intervals import mean_share
from bulletlm.evaluate.question_pairs import FEWEST, MOST, PACKAGED, Pair, choose_pairs
from bulletlm.text.documents import Document
from bulletlm.text.tokenizer import Tokenizer
from paths import ROOT

LIMIT = LimitsConfig().answer_fit
GRADED = [
    json.loads(line)
    for name in ("first-model", "demo")
    for line in (ROOT / f"bench/grading/{name}.jsonl").read_text(encoding="utf-8").splitlines()
]
REFERENCES = {row["question"]: row for row in GRADED if row["system"] == "reference"}
PAIRS = [
    Pair(question=question, answer=row["answer"], language=row["language"], question_ids=(), answer_ids=())
    for question, row in REFERENCES.items()
]


def answers_of(system: str) -> list[str]:
    found = {row["question"]: row["answer"] for row in GRADED if row["system"] == system}
    return [found[pair.question] for pair in PAIRS]


def test_answers_of_people_pass() -> None:
    assert mean_share(answer_fit(PAIRS, answers_of("reference"))).value > 0.99


@pytest.mark.parametrize("system", ["marathi-english", "demo-before", "demo-both", "demo-simple"])
def test_models_whose_answers_readers_found_wrong_fail(system: str) -> None:
    """Readers found at most 9 of 100 answers of each of these models good."""
    found = mean_share(answer_fit(PAIRS, answers_of(system)))
    assert found.high is not None and found.high < LIMIT


def test_answers_that_readers_found_good_fit_better() -> None:
    fits = answer_fit(PAIRS, answers_of("marathi-english"))
    good = {row["question"] for row in GRADED if row["system"] == "marathi-english" and all(row["good"])}
    chosen = np.array([pair.question in good for pair in PAIRS])
    assert fits[chosen].mean() > LIMIT > fits[~chosen].mean()


def test_answers_that_do_not_depend_on_the_question_have_one_half() -> None:
    shuffled = answers_of("reference")
    for language in ("mr", "en"):
        places = [n for n, pair in enumerate(PAIRS) if pair.language == language]
        moved = random.Random(5).sample(places, len(places))
        for place, text in zip(places, [shuffled[n] for n in moved], strict=True):
            shuffled[place] = text
    for answers in (shuffled, ["मला माहीत नाही. I do not know."] * len(PAIRS), [""] * len(PAIRS)):
        found = mean_share(answer_fit(PAIRS, answers))
        assert found.value == pytest.approx(0.5, abs=0.06) and found.high is not None and found.high < LIMIT


def test_half_of_the_right_answers_are_between() -> None:
    wrong, right = answers_of("marathi-english"), answers_of("reference")
    mixed = [right[n] if n % 2 else wrong[n] for n in range(len(right))]
    values = [float(answer_fit(PAIRS, answers).mean()) for answers in (wrong, mixed, right)]
    assert values == sorted(values) and values[1] == pytest.approx((values[0] + values[2]) / 2, abs=0.05)


@given(st.text(alphabet="अआकिी abcé. \n", max_size=30), st.text(alphabet="अआकिी abcé. \n", max_size=30))
def test_chrf_is_that_of_sacrebleu(text: str, reference: str) -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    assert chrf(text, reference) == pytest.approx(metrics.CHRF().sentence_score(text, [reference]).score, abs=1e-9)


def test_shares_stay_shares() -> None:
    """Nearly all values are equal, so the standard error of many resamples is 0."""
    for few in (1, 3, 8):
        found = mean_share([0.5] * few + [1.0] * (80 - few))
        assert found.low is not None and found.high is not None
        assert 0.5 < found.low <= found.value <= found.high <= 1


def talk(n: int, question: str, answer: str, language: str = "mr") -> Document:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": str(n), "source": "x", "language": language, "messages": messages}  # type: ignore[typeddict-item]


def test_own_held_out_questions_come_first(tokenizer: Tokenizer) -> None:
    own = [talk(n, f"तुझ्याकडे {n} आंबे आहेत का?", f"हो, {n} आंबे आहेत.") for n in range(FEWEST)]
    pairs = choose_pairs(own, ["mr"], tokenizer, 256, 1)
    assert {pair.question for pair in pairs} == {document["messages"][0]["content"] for document in own}
    assert choose_pairs(own[::-1], ["mr"], tokenizer, 256, 1) == pairs


def test_few_held_out_questions_are_joined_by_those_of_the_package(tokenizer: Tokenizer) -> None:
    own = [talk(1, "तुझ्याकडे आंबे आहेत का?", "हो, आहेत.")]
    pairs = choose_pairs(own, ["mr", "en", "ta"], tokenizer, 256, 1)
    counts = {language: sum(pair.language == language for pair in pairs) for language in ("mr", "en", "ta")}
    assert counts == {"mr": MOST, "en": MOST, "ta": 0}  # the package has no Tamil questions
    packaged = {json.loads(line)["prompt"] for path in PACKAGED.glob("questions.*.jsonl") for line in path.read_text("utf-8").splitlines()}
    assert {pair.question for pair in pairs} <= packaged | {own[0]["messages"][0]["content"]}


def test_translations_and_long_questions_are_no_test_of_answers(tokenizer: Tokenizer) -> None:
    rows = [
        *(talk(n, f"मराठीत भाषांतर करा: I have {n} cats.", f"माझ्याकडे {n} मांजरं आहेत.") for n in range(40)),
        *(talk(n, f"Translate into Marathi: I have {n} cats.", f"माझ्याकडे {n} मांजरं आहेत.") for n in range(40)),
        *(talk(n, f"{n} मांजरं " + "आहेत का? " * 200, "हो.") for n in range(40)),
    ]
    for pair in choose_pairs(rows, ["mr"], tokenizer, 256, 1):
        assert "cats" not in pair.question and "मांजरं" not in pair.question
        assert len(pair.question_ids) + len(pair.answer_ids) <= 256

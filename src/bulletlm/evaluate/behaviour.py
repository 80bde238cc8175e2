"""How the models behave when they write: both versions answer the same prompts with the same seeds, and checks compare the answers.

The checks are those of checks.py, compared with the training text (training_text.py) and with held-out text that people wrote. They
find faults that a loss does not show; only a reader can judge the content.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import median
from typing import Any

import numpy as np

from bulletlm.data.language import detect
from bulletlm.evaluate.answer_fit import MOST_TOKENS as MOST_FIT_TOKENS
from bulletlm.evaluate.answer_fit import answer_fit
from bulletlm.evaluate.checks import is_in_language, is_loop, shares_topic
from bulletlm.evaluate.chrf import chrf
from bulletlm.evaluate.facts import MOST_TOKENS, Fact, choose_facts
from bulletlm.evaluate.generation import Answer, answer_prompts, generate_all
from bulletlm.evaluate.intervals import Bootstrap, Interval, Units, mean, mean_share, paired_difference, proportion
from bulletlm.evaluate.prompts import Prompt
from bulletlm.evaluate.question_pairs import Pair, choose_pairs
from bulletlm.evaluate.question_use import question_use
from bulletlm.evaluate.report_types import (
    AnswerChecks,
    BehaviourValues,
    FactsValues,
    FitValues,
    GreedyValues,
    IntervalValues,
    Rate,
    TranslationValues,
)
from bulletlm.evaluate.training_text import PASSAGE_WORDS, TrainingText, all_texts, real_words
from bulletlm.progress import Progress
from bulletlm.runtime import Model
from bulletlm.runtime.sampling import Sampling
from bulletlm.text.akshara import count_broken_letters
from bulletlm.text.documents import Document

COPIED_SHARE = 0.8
"""An answer of PASSAGE_WORDS or more counts as copied if this share of its words is in passages of the training text."""

GREEDY_TOKENS = 48
"""Tokens of an answer without sampling at most; after the first difference the two answers have little in common."""

_FEWEST_PAIRS = 20
"""Fewer held-out questions with answers do not show how often people take up the words of a question."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts that answers are compared with; None if the run folder has lost its training text.

    Attributes:
        training: index of the training text.
        documents: its documents, or a part of them.
        held_out: documents of the validation text.
    """

    training: TrainingText | None
    documents: Sequence[Document]
    held_out: Sequence[Document]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model wrote: an answer with sampling and one without (greedy) to every prompt, and the answers to facts and questions."""

    sampled: list[Answer]
    greedy: list[Answer]
    facts: list[str]
    to_pairs: list[str]
    question_use: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What both models are asked: the prompts, the facts, questions with answers of people, and the settings and seed of every answer."""

    prompts: list[Prompt]
    facts: Sequence[Fact]
    pairs: Sequence[Pair]
    sampling: Sampling
    seed: int


def ask(model: Model, questions: Questions, progress: Progress) -> Answers:
    """Let a model answer the prompts, the facts and the questions, and measure whether it uses a question.

    Raises:
        BulletError: the weights are damaged.
    """
    prompts, facts, pairs, sampling, seed = questions.prompts, questions.facts, questions.pairs, questions.sampling, questions.seed
    greedy = replace(sampling, temperature=0.0, max_tokens=min(GREEDY_TOKENS, sampling.max_tokens))
    short = replace(greedy, max_tokens=min(MOST_TOKENS, greedy.max_tokens))
    longer = replace(greedy, max_tokens=min(MOST_FIT_TOKENS, sampling.max_tokens))

    def write(asked: Sequence[Sequence[int]], how: Sampling, title: str) -> list[str]:
        return [model.tokenizer.decode(ids) for ids in generate_all(model, [list(ids) for ids in asked], how, progress, title)]

    return Answers(
        sampled=answer_prompts(model, prompts, sampling, seed, progress),
        greedy=answer_prompts(model, prompts, greedy, seed, progress),
        facts=write([fact.ids for fact in facts], short, "Asking for facts"),
        to_pairs=write([pair.question_ids for pair in pairs], longer, "Asking questions"),
        question_use=question_use(model, pairs, seed, progress),
    )


def facts_for(prompts: list[Prompt], texts: Texts, model: Model, seed: int) -> list[Fact]:
    """The facts to ask for (facts.py)."""
    return choose_facts(prompts, texts.documents, model.tokenizer, model.shape.max_seq_len, seed)


def pairs_for(texts: Texts, languages: Collection[str], model: Model, seed: int) -> list[Pair]:
    """The questions with answers of people (question_pairs.py)."""
    return choose_pairs(texts.held_out, languages, model.tokenizer, model.shape.max_seq_len, seed)


def check_answers(prompts: list[Prompt], answers: list[Answer], texts: Texts) -> list[AnswerChecks]:
    """The checks of every answer, in the order of the prompts."""
    copies = texts.training.copies([answer.text for answer in answers]) if texts.training else None
    checks: list[AnswerChecks] = []
    for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        asked = set(real_words(prompt.prompt))
        words = [word for word in real_words(answer.text) if word not in asked]
        found = copies[n] if copies else None
        checks.append(
            {
                "right_language": is_in_language(answer.text, prompt.language),
                "loop": is_loop(answer.text),
                "broken_letters": count_broken_letters(answer.text),
                "letters": sum(character.isalpha() for character in answer.text),
                "words": len(words),
                "invented_words": int(texts.training.unknown(words).sum()) if texts.training else None,
                "fitting_length": _fits(prompt, answer.text),
                "on_topic": None if prompt.kind == "translation" else shares_topic(prompt.prompt, answer.text, prompt.about),
                "longest_copy": found.longest if found else None,
                "copied": found is not None and len(real_words(answer.text)) >= PASSAGE_WORDS and found.share >= COPIED_SHARE,
                "chrf": None if prompt.reference is None else chrf(answer.text, prompt.reference),
            }
        )
    return checks


def _fits(prompt: Prompt, text: str) -> bool | None:
    return None if prompt.words is None else prompt.words[0] <= len(text.split()) <= prompt.words[1]


@dataclass(frozen=True, kw_only=True)
class Described:
    """The rates for the report, and the checks of every answer of FP32 (a) and of 4-bit (b)."""

    behaviour: BehaviourValues
    a: list[AnswerChecks]
    b: list[AnswerChecks]


def describe(questions: Questions, fp32: Answers, bq4: Answers, texts: Texts, languages: Collection[str]) -> Described:
    """The rates of all checks for both models, and the change between them.

    Args:
        questions: what was asked.
        fp32, bq4: the answers.
        texts: the texts with which they are compared.
        languages: languages of the training text. Only prompts in these are judged, unless there are none.
    """
    every_a, every_b = (check_answers(questions.prompts, side.sampled, texts) for side in (fp32, bq4))
    judged = [n for n, prompt in enumerate(questions.prompts) if _can_be_judged(prompt, languages)] or [*range(len(questions.prompts))]
    prompts = [questions.prompts[n] for n in judged]
    a, b = ([rows[n] for n in judged] for rows in (every_a, every_b))
    left_out = Counter(prompt.language for n, prompt in enumerate(questions.prompts) if n not in set(judged))
    human = _human(texts)
    rates = {
        "right_language": _share([row["right_language"] for row in a], [row["right_language"] for row in b]),
        "loops": _share([row["loop"] for row in a], [row["loop"] for row in b]),
        "ended": _share([fp32.sampled[n].ended for n in judged], [bq4.sampled[n].ended for n in judged]),
        "fitting_length": _share([row["fitting_length"] for row in a], [row["fitting_length"] for row in b]),
        "on_topic": _share([row["on_topic"] for row in a], [row["on_topic"] for row in b], human.get("on_topic")),
        "copied": _share([row["copied"] for row in a], [row["copied"] for row in b]) if texts.training else None,
        "broken_letters": _ratio(a, b, "broken_letters", "letters", 0.0),
        "invented_words": None,
        "faults": _share([_is_faulty(row) for row in a], [_is_faulty(row) for row in b]),
    }
    by_language: dict[str, dict[str, float | None]] = {}
    if texts.training:
        rates["invented_words"] = _invented(prompts, a, b, texts, by_language)
    behaviour: BehaviourValues = {
        "prompts": len(prompts),
        "not_judged": dict(left_out),
        "rates": rates,
        "invented_by_language": by_language,
        "wrong_languages": _wrong_languages(prompts, [bq4.sampled[n] for n in judged]),
        "question_use": _question_use(fp32, bq4),
        "answer_fit": _answer_fit(questions.pairs, fp32.to_pairs, bq4.to_pairs, questions.seed),
        "greedy": _greedy(fp32.greedy, bq4.greedy),
        "translation": _translation(a, b),
        "facts": _facts(questions.facts, fp32.facts, bq4.facts),
        "longest_copy": {
            "fp32": max((row["longest_copy"] or 0 for row in a), default=0),
            "bq4": max((row["longest_copy"] or 0 for row in b), default=0),
        }
        if texts.training
        else None,
    }
    return Described(behaviour=behaviour, a=every_a, b=every_b)


def _can_be_judged(prompt: Prompt, languages: Collection[str]) -> bool:
    """Whether the model has training text in the languages of the prompt and of its answer."""
    return {prompt.language, detect(prompt.prompt)} <= set(languages) and (prompt.kind != "translation" or len(set(languages)) > 1)


def _question_use(fp32: Answers, bq4: Answers) -> dict[str, IntervalValues] | None:
    if fp32.question_use is None or bq4.question_use is None:
        return None
    return {"fp32": fp32.question_use.to_dict(), "bq4": bq4.question_use.to_dict()}


def _answer_fit(pairs: Sequence[Pair], fp32: Sequence[str], bq4: Sequence[str], seed: int) -> FitValues | None:
    """How well the answers of both models belong to their questions."""
    if not pairs:
        return None
    a, b = (answer_fit(pairs, answers) for answers in (fp32, bq4))
    return {
        "questions": len(pairs),
        "rate": _rate(mean_share(a, seed), mean_share(b, seed), mean(b - a, seed), None),
        "rows": [
            {
                "question": pair.question,
                "expected": pair.answer,
                "language": pair.language,
                "fp32": fp32[n],
                "bq4": bq4[n],
                "fp32_fit": float(a[n]),
                "bq4_fit": float(b[n]),
            }
            for n, pair in enumerate(pairs)
        ],
    }


def _is_faulty(row: AnswerChecks) -> bool:
    """Whether an answer is in the wrong language, a loop, or has broken letters."""
    return not row["right_language"] or row["loop"] or row["broken_letters"] > 0


def _share(a: Sequence[bool | None], b: Sequence[bool | None], human: float | None = None) -> Rate | None:
    """Shares of both models over the prompts where the check applies to both."""
    pairs = [(one, other) for one, other in zip(a, b, strict=True) if one is not None and other is not None]
    if not pairs:
        return None
    first, second = (sum(column) for column in zip(*pairs, strict=True))
    change = paired_difference([one for one, _ in pairs], [other for _, other in pairs])
    return _rate(proportion(first, len(pairs)), proportion(second, len(pairs)), change, human)


def _rate(fp32: Interval, bq4: Interval, change: Interval, human: float | None) -> Rate:
    return {"fp32": fp32.to_dict(), "bq4": bq4.to_dict(), "change": change.to_dict(), "human": human}


def _ratio(a: Sequence[Any], b: Sequence[Any], top: str, bottom: str, human: float | None) -> Rate | None:
    """Shares of words or letters, with the answers as units."""
    values = {side: np.array([[row[top], row[bottom]] for row in rows], dtype=float) for side, rows in (("a", a), ("b", b))}
    if not all(columns[:, 1].sum() for columns in values.values()):
        return None
    bootstrap = Bootstrap(Units(np.arange(len(a)), len(a), "documents"))
    first, second = (bootstrap.ratio(columns[:, 0], columns[:, 1]) for columns in values.values())
    # Both models wrote texts of different lengths, so the difference of the two ratios is linearized around them.
    sizes = {side: columns[:, 1].mean() for side, columns in values.items()}
    residual_a = (values["a"][:, 0] - first.value * values["a"][:, 1]) / sizes["a"]
    residual_b = (values["b"][:, 0] - second.value * values["b"][:, 1]) / sizes["b"]
    change = bootstrap.mean(residual_b - residual_a + second.value - first.value)
    return _rate(first, second, change, human)


def _invented(
    prompts: list[Prompt], a: list[AnswerChecks], b: list[AnswerChecks], texts: Texts, by_language: dict[str, dict[str, float | None]]
) -> Rate | None:
    """Share of invented words. `human` is the share in held-out text, weighted like the languages of the 4-bit answers."""
    assert texts.training
    held_out = _held_out_words(texts)
    languages = sorted({prompt.language for prompt in prompts})
    weighted, counted = 0.0, 0
    for language in languages:
        rows = {side: [row for p, row in zip(prompts, all_rows, strict=True) if p.language == language] for side, all_rows in _sides(a, b)}
        words = {side: sum(row["words"] for row in found) for side, found in rows.items()}
        invented = {side: sum(row["invented_words"] or 0 for row in found) for side, found in rows.items()}
        human = held_out.get(language)
        by_language[language] = {
            **{side: invented[side] / words[side] if words[side] else None for side in rows},
            "human": human,
        }
        if human is not None:
            weighted += human * words["bq4"]
            counted += words["bq4"]
    return _ratio(a, b, "invented_words", "words", weighted / counted if counted else None)


def _sides(a: list[AnswerChecks], b: list[AnswerChecks]) -> list[tuple[str, list[AnswerChecks]]]:
    return [("fp32", a), ("bq4", b)]


def _held_out_words(texts: Texts) -> dict[str, float]:
    """Language -> share of the words of held-out text that do not occur in the training text."""
    assert texts.training
    shares = {}
    for language in sorted({document["language"] for document in texts.held_out}):
        words = [word for text in all_texts([each for each in texts.held_out if each["language"] == language]) for word in real_words(text)]
        if words:
            shares[language] = float(texts.training.unknown(words).mean())
    return shares


def _human(texts: Texts) -> dict[str, float]:
    """How often people take up the words of a question in their answer, in held-out conversations."""
    found = []
    for document in texts.held_out:
        messages = document.get("messages") or []
        if len(messages) >= 2:
            found.append(shares_topic(messages[0]["content"], messages[1]["content"]))
    applies = [each for each in found if each is not None]
    return {"on_topic": sum(applies) / len(applies)} if len(applies) >= _FEWEST_PAIRS else {}


def _wrong_languages(prompts: list[Prompt], answers: list[Answer]) -> dict[str, dict[str, int]]:
    """Expected language -> language of the answer -> number of answers, "und" for answers without letters."""
    found: dict[str, dict[str, int]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        if (got := detect(answer.text)) != prompt.language:
            row = found.setdefault(prompt.language, {})
            row[got] = row.get(got, 0) + 1
    return found


def _greedy(a: list[Answer], b: list[Answer]) -> GreedyValues:
    """Where the two models first choose another token, without sampling."""
    common = [
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(x.ids, y.ids, strict=False))) for x, y in zip(a, b, strict=True)
    ]
    identical = [x.ids == y.ids for x, y in zip(a, b, strict=True)]
    same = sum(sum(i == j for i, j in zip(x.ids, y.ids, strict=False)) for x, y in zip(a, b, strict=True))
    longest = sum(max(len(x.ids), len(y.ids)) for x, y in zip(a, b, strict=True))
    apart = [place + 1 for place, equal in zip(common, identical, strict=True) if not equal]
    return {
        "answers": len(a),
        "identical_answers": sum(identical),
        "identical_tokens": same / longest if longest else None,
        "first_divergence": median(apart) if apart else None,
    }


def _translation(a: list[AnswerChecks], b: list[AnswerChecks]) -> TranslationValues | None:
    """Mean chrF over the prompts with a reference."""
    pairs = [(x["chrf"], y["chrf"]) for x, y in zip(a, b, strict=True) if x["chrf"] is not None and y["chrf"] is not None]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    return {"references": len(pairs), "fp32": float(np.mean(first)), "bq4": float(np.mean(second))}


def _facts(facts: Sequence[Fact], a: list[str], b: list[str]) -> FactsValues | None:
    """Shares of wrong answers, paired."""
    if not facts:
        return None
    wrong = [[not fact.is_right(text) for fact, text in zip(facts, texts, strict=True)] for texts in (a, b)]
    change: IntervalValues = paired_difference(*wrong).to_dict()
    first, second = (proportion(sum(side), len(facts)) for side in wrong)
    rate = _rate(first, second, paired_difference(*wrong), None)
    return {
        "asked": len(facts),
        "wrong": rate,
        "significant": change["low"] is not None and change["low"] > 0,
        "rows": [
            {
                "question": fact.question,
                "expected": fact.expected,
                "kind": fact.kind,
                "fp32": x,
                "bq4": y,
                "fp32_right": not wrong[0][n],
                "bq4_right": not wrong[1][n],
            }
            for n, (fact, x, y) in enumerate(zip(facts, a, b, strict=True))
        ],
    }

"""Measures models on public test sets, and places them among published scores (docs/benchmarks.md)."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from bulletlm.errors import BulletError
from bulletlm.evaluate.benchmark_tasks import Pair, Question, Sentence, Task
from bulletlm.evaluate.formatting import language_name
from bulletlm.evaluate.intervals import Bootstrap, Interval, choose_units, proportion
from bulletlm.evaluate.language_models import LanguageModel, log_probs
from bulletlm.extras import install_command
from bulletlm.progress import Progress
from bulletlm.runtime.sampling import Sampling

PUBLISHED = Path(__file__).with_name("published.jsonl")

MOST_ANSWER_TOKENS = 128
"""Tokens of a translation at most."""

METRICS = {
    "halves": ("bits of the second half of a sentence, given the first", False),
    "pairs": ("share of pairs in which the good sentence is likelier", True),
    "choice": ("share of questions whose right answer is the likeliest", True),
    "translation": ("chrF of the translation", True),
    "text": ("bits per byte", False),
}
"""Kind of a task -> what its value means, and whether more is better."""


class Measured(TypedDict):
    """The value of one model on one task. Shares and chrF are from 0 to 100.

    `low` and `high` bound the 95 % interval; they are None where there are too few items for one. `details` has further figures:
    groups of minimal pairs, the value normalized by the length of the choices, the first translations.
    """

    model: str
    value: float
    low: float | None
    high: float | None
    details: dict[str, Any]


class Difference(TypedDict):
    """The value of a model minus that of the first model, item by item, with its 95 % interval."""

    model: str
    against: str
    value: float
    low: float | None
    high: float | None


class Published(TypedDict):
    """A published score."""

    benchmark: str
    kind: str
    language: str
    split: str
    model: str
    value: float
    source: str


class TaskResult(TypedDict):
    """One task: what was measured, each model's value, and the published scores on the same test set."""

    name: str
    kind: str
    benchmark: str
    split: str
    language: str
    source_language: NotRequired[str]
    metric: str
    higher_is_better: bool
    items: int
    models: list[Measured]
    differences: list[Difference]
    published: list[Published]


@dataclass(frozen=True)
class _Values:
    """Values of the n items of a task; the result is sum(values) / sum(weights).

    Attributes:
        values: float64[n].
        weights: float64[n].
        details: see `Measured`.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    details: dict[str, Any]

    def summary(self, label: str, kind: str) -> Measured:
        if kind in ("pairs", "choice"):  # Wilson's interval also holds for a model that is always right
            hits, n = float(self.values.sum()) / 100, len(self.values)
            interval = proportion(int(hits), n).mapped(lambda share: 100 * share)
            return {"model": label, "value": 100 * hits / n, "low": interval.low, "high": interval.high, "details": self.details}
        return {"model": label, **self.bootstrap(self.values).to_dict(), "details": self.details}

    def difference(self, other: "_Values") -> Interval:
        """The result of `other` minus this one."""
        return self.bootstrap(other.values - self.values)

    def bootstrap(self, values: NDArray[np.float64]) -> Interval:
        numbers = np.arange(len(values))
        return Bootstrap(choose_units(numbers, numbers)).ratio(values, self.weights)


class _Translations(NamedTuple):
    """The answers of a model, with the references, [sides][n]."""

    answers: list[str]
    references: list[list[str | None]]
    details: dict[str, Any]

    def summary(self, label: str, kind: str) -> Measured:
        low, high = np.quantile(self._drawn(), (0.025, 0.975))
        value = _chrf(self.answers, self.references)
        details = {"signature": str(chrf_metric().get_signature()), **self.details}
        return {"model": label, "value": value, "low": float(low), "high": float(high), "details": details}

    def difference(self, other: "_Translations") -> Interval:
        differences = np.array(other._drawn()) - np.array(self._drawn())  # the same draws
        low, high = np.quantile(differences, (0.025, 0.975))
        value = _chrf(other.answers, other.references) - _chrf(self.answers, self.references)
        return Interval(value, float(low), float(high))

    def _drawn(self) -> list[float]:
        """chrF of a corpus is not a mean over sentences, so the whole corpus is drawn again, TRANSLATION_RESAMPLES times."""
        rng, n = np.random.default_rng(0), len(self.answers)
        scores = []
        for _ in range(TRANSLATION_RESAMPLES):
            rows = rng.integers(n, size=n)
            scores.append(_chrf([self.answers[row] for row in rows], [[side[row] for row in rows] for side in self.references]))
        return scores


def run_benchmark(models: Sequence[LanguageModel], tasks: Sequence[Task], progress: Progress, seed: int = 42) -> list[TaskResult]:
    """Measure every model on every task; translations are greedy.

    Raises:
        BulletError: a model computes NaN, or a library that a task needs is not installed.
    """
    results: list[TaskResult] = []
    for task in tasks:
        meaning, higher = METRICS[task.kind]
        found = [_measure(model, task, progress, seed) for model in models]
        result: TaskResult = {
            "name": task.name,
            "kind": task.kind,
            "benchmark": task.benchmark,
            "split": task.split,
            "language": task.language,
            "metric": meaning,
            "higher_is_better": higher,
            "items": len(task.items),
            "models": [values.summary(model.label, task.kind) for model, values in zip(models, found, strict=True)],
            "differences": [
                _difference(model.label, models[0].label, found[0].difference(values))
                for model, values in zip(models[1:], found[1:], strict=True)
            ],
            "published": [row for row in published() if _same_test(row, task)],
        }
        if task.source_language:
            result["source_language"] = task.source_language
        results.append(result)
    return results


def _difference(model: str, against: str, interval: Interval) -> Difference:
    return {"model": model, "against": against, "value": interval.value, "low": interval.low, "high": interval.high}


@cache
def published() -> tuple[Published, ...]:
    """The published scores in the package."""
    return tuple(json.loads(line) for line in PUBLISHED.read_text(encoding="utf-8").splitlines() if line.strip())


def _same_test(row: Published, task: Task) -> bool:
    return (row["benchmark"], row["kind"], row["language"]) == (task.benchmark, task.kind, task.language)


def _measure(model: LanguageModel, task: Task, progress: Progress, seed: int) -> Any:
    title = f"{task.name}, {_languages(task)}"
    if task.kind == "translation":
        return _translation(model, task, progress, title, seed)
    with progress.task(title, None):
        return {"halves": _halves, "pairs": _pairs, "choice": _choice, "text": _text}[task.kind](model, task)


def _marked(model: LanguageModel, text: str) -> list[int]:
    """The tokens of a text with the document mark in front."""
    ids = model.encode(text)
    return ids if model.start is None else [model.start, *ids]


def _bits(model: LanguageModel, ids: Sequence[int], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits of ids[1:]; the token for unknown text costs as much as a blind choice among all tokens."""
    bits: NDArray[np.float64] = -scores / math.log(2)
    if model.unknown is not None:
        bits[np.asarray(ids[1:]) == model.unknown] = math.log2(model.vocab_size)
    return bits


def _halves(model: LanguageModel, task: Task) -> _Values:
    """Bits of the tokens after those that the first half of the sentence (by characters) has when it is encoded alone."""
    texts = [_marked(model, sentence) for sentence in task.items]
    mark = 0 if model.start is None else 1
    values = []
    for sentence, ids, scores in zip(task.items, texts, log_probs(model, texts), strict=True):
        first = len(model.encode(sentence[: len(sentence) // 2])) + mark - 1  # position of the second half's first token in ids[1:]
        values.append(_bits(model, ids, scores)[max(0, first) :].sum())
    return _Values(np.array(values), np.ones(len(values)), {})


def sentence_bits(model: LanguageModel, texts: Sequence[str]) -> NDArray[np.float64]:
    """Bits of each whole text, float64[n]."""
    encoded = [_marked(model, text) for text in texts]
    return np.array([_bits(model, ids, scores).sum() for ids, scores in zip(encoded, log_probs(model, encoded), strict=True)])


def _pairs(model: LanguageModel, task: Task) -> _Values:
    items: Sequence[Pair] = task.items
    bits = sentence_bits(model, [task.delimiter + text for pair in items for text in (pair.good, pair.bad)]).reshape(-1, 2)
    right = np.where(bits[:, 0] == bits[:, 1], 50.0, np.where(bits[:, 0] < bits[:, 1], 100.0, 0.0))
    groups = sorted({pair.group for pair in items} - {""})
    by_group = {group: float(right[[pair.group == group for pair in items]].mean()) for group in groups}
    return _Values(right, np.ones(len(right)), {"groups": by_group})


def _choice(model: LanguageModel, task: Task) -> _Values:
    """The likeliest continuation of the context; `normalised` divides the log-probability by the characters of the choice."""
    items: Sequence[Question] = task.items
    encoded: list[list[int]] = []
    starts: list[int] = []
    for question in items:
        context = question.context.rstrip()
        for option in question.options:
            encoded.append(_marked(model, context + task.delimiter + option))
            starts.append(len(_marked(model, context)))
    # A model without a document mark cannot score the first token of a choice that follows nothing.
    totals = [scores[max(0, start - 1) :].sum() for start, scores in zip(starts, log_probs(model, encoded), strict=True)]
    right, normalized, at = [], [], 0
    for question in items:
        scores = np.array(totals[at : at + len(question.options)])
        at += len(question.options)
        right.append(100.0 * (scores.argmax() == question.answer))
        lengths = np.array([len(option) for option in question.options])
        normalized.append(100.0 * ((scores / lengths).argmax() == question.answer))
    chance = float(np.mean([100 / len(question.options) for question in items]))
    return _Values(np.array(right), np.ones(len(right)), {"normalised": float(np.mean(normalized)), "chance": chance})


def _text(model: LanguageModel, task: Task) -> _Values:
    """Bits of all documents divided by their UTF-8 bytes; the end of a document is not counted."""
    sizes = np.array([len(document.encode()) for document in task.items], dtype=np.float64)
    return _Values(sentence_bits(model, task.items), sizes, {"bytes": int(sizes.sum())})


def _translation(model: LanguageModel, task: Task, progress: Progress, title: str, seed: int) -> _Translations:
    chrf_metric()  # before the work begins
    items: Sequence[Sentence] = task.items
    sampling = Sampling(temperature=0, repetition_penalty=1, max_tokens=MOST_ANSWER_TOKENS, seed=seed)
    answers: list[str] = []
    with progress.task(title, len(items)) as bar:
        for written in model.answer([task.prompt.replace("{}", item.source) for item in items], sampling):
            answers.append(written.text.strip())
            bar.advance()
    most = max(len(item.references) for item in items)
    references = [[item.references[n] if n < len(item.references) else None for item in items] for n in range(most)]
    samples = [
        {"source": item.source, "answer": answer, "reference": item.references[0]} for item, answer in zip(items, answers, strict=True)
    ]
    return _Translations(answers, references, {"chat_template": model.chats, "samples": samples[:5]})


def _chrf(answers: list[str], references: list[list[str | None]]) -> float:
    return float(chrf_metric().corpus_score(answers, references).score)


TRANSLATION_RESAMPLES = 100
"""A resample computes chrF of the whole corpus, which takes as long as tens of translations."""


@cache
def chrf_metric() -> Any:
    """sacrebleu's chrF with its default settings (chrF2, 6 characters, no words).

    Raises:
        BulletError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        raise BulletError(f"translations are scored with sacrebleu; leave them out with --tasks, or: {install_command('score')}") from None
    return CHRF()


def _languages(task: Task | TaskResult) -> str:
    language, source = (task.language, task.source_language) if isinstance(task, Task) else (task["language"], task.get("source_language"))
    return f"{language_name(source)} to {language_name(language)}" if source else language_name(language)


# --- tables -------------------------------------------------------------------------------------------------------------


def table(result: TaskResult) -> list[str]:
    """The lines of a task's table: the models among the published scores, the best first; `>` marks what was measured here."""
    unit = {"text": "{:.4f}", "halves": "{:.1f}"}.get(result["kind"], "{:.1f}")
    order = "higher is better" if result["higher_is_better"] else "lower is better"
    noun = "document" if result["kind"] == "text" else "item"
    count = f"{result['items']:,} {noun}{'' if result['items'] == 1 else 's'}"
    lines = [f"{result['name']}, {_languages(result)}: {result['metric']} ({order}); {count}"]
    rows = [(row["value"], " ", row["model"], "") for row in result["published"]]
    rows += [(row["value"], ">", row["model"], _interval(row, unit)) for row in result["models"]]
    rows.sort(key=lambda row: -row[0] if result["higher_is_better"] else row[0])
    width = max(len(name) for _, _, name, _ in rows)
    lines += [f"  {mark} {name:<{width}}  {unit.format(value):>8}{interval}" for value, mark, name, interval in rows]
    for row in result["differences"]:
        low, high = row["low"], row["high"]
        signed = "{:+.4f}" if result["kind"] == "text" else "{:+.2f}"
        what = " (too few items for an interval)" if low is None or high is None else " (within the noise)" if low <= 0 <= high else ""
        lines.append(f"    {row['model']} - {row['against']}: {signed.format(row['value'])}{_interval(row, signed)}{what}")
    splits = sorted({row["split"] for row in result["published"]} - {"", result["split"]})
    if splits:
        lines.append(
            f"    (the published scores are on {' and '.join(splits)}, which has other sentences than {result['split'] or 'this file'})"
        )
    return lines


def _interval(row: Measured | Difference, unit: str) -> str:
    low, high = row["low"], row["high"]
    return "" if low is None or high is None else f"   [{unit.format(low)}, {unit.format(high)}]"

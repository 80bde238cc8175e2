"""Compares any two models, also of different tokenizers: bits per byte of the same text, and answers to the same prompts.

`compare.py` compares models with the same tokenizer token by token, which is more exact.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from bulletlm.errors import DataError
from bulletlm.evaluate.benchmark_tasks import read_tasks
from bulletlm.evaluate.generation import Answer, distinct_2, longest_repeat, mean_checks, script_share
from bulletlm.evaluate.intervals import Bootstrap, Interval, choose_units
from bulletlm.evaluate.language_models import BulletModel, LanguageModel, log_probs
from bulletlm.evaluate.prompts import Prompt
from bulletlm.evaluate.report_types import AnswerValues, IntervalValues
from bulletlm.files import open_regular
from bulletlm.progress import Progress
from bulletlm.runtime.sampling import Sampling
from bulletlm.text.documents import parse_document, read_documents, texts_of

MOST_BYTES = 400_000
"""Of the text on which two models are compared; a longer text is thinned evenly."""


PASSAGE_BYTES = 2_000
"""Longer documents are cut at line ends, so that a few long documents give an interval too; about the context of a small model."""


class Passage(NamedTuple):
    """A text to predict and the code of its language."""

    text: str
    language: str


class TextComparison(TypedDict):
    """Bits per byte of both models over the same passages, and their difference, each with its 95 % interval."""

    passages: int
    bytes: int
    a: IntervalValues
    b: IntervalValues
    difference: IntervalValues


class AnswerPair(TypedDict):
    """A prompt with the answers of both models."""

    prompt: str
    language: str
    kind: str
    a: AnswerValues
    b: AnswerValues


class AnswerComparison(TypedDict):
    """The answers of both models; `checks` are means over all answers, `identical` counts equal answers."""

    seed: int
    identical: int
    checks: dict[str, dict[str, float | None]]
    rows: list[AnswerPair]


class ModelFacts(TypedDict):
    """One of the two models: `engine` is what ran it."""

    model: str
    engine: str
    vocab_size: int
    context: int
    chat_template: bool


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """The result of `compare_models`; `by_language` has the languages of the text, `answers` is None without prompts."""

    a: ModelFacts
    b: ModelFacts
    text: TextComparison
    by_language: dict[str, TextComparison]
    answers: AnswerComparison | None


def read_passages(path: Path) -> list[Passage]:
    """The documents of data/val.jsonl of a run, of another .jsonl with "text", or of a text file (an empty line between documents).

    Raises:
        BulletError: the file cannot be read, or holds no text.
    """
    if path.name in ("val.jsonl", "train.jsonl") and _is_of_a_run(path):
        passages = [Passage("\n".join(texts_of(document)), document["language"]) for document in read_documents(path)]
    else:
        tasks = [task for task in read_tasks(path) if task.kind in ("text", "halves")]
        passages = [Passage(str(text), task.language) for task in tasks for text in task.items]
    passages = [part for passage in passages for part in _cut(passage) if part.text.strip()]
    if not passages:
        raise DataError(f"{path} holds no text to compare on: name a text file, or a .jsonl file whose lines have a text")
    total = sum(len(passage.text.encode()) for passage in passages)
    if total > MOST_BYTES:
        step = total / MOST_BYTES
        passages = [passages[int(number * step)] for number in range(int(len(passages) / step))] or passages[:1]
    return passages


def _is_of_a_run(path: Path) -> bool:
    """Whether the data stage wrote a .jsonl file. Other people call theirs val.jsonl too; a file that is not there is no such file."""
    try:
        with open_regular(path) as file:
            return parse_document(file.readline()) is not None
    except OSError:
        return False


def _cut(passage: Passage) -> Iterator[Passage]:
    """The passage in parts of whole lines, of PASSAGE_BYTES at most where the lines are not longer."""
    part = ""
    for line in passage.text.splitlines(keepends=True):
        if part and len((part + line).encode()) > PASSAGE_BYTES:
            yield Passage(part.rstrip("\n"), passage.language)
            part = ""
        part += line
    yield Passage(part.rstrip("\n"), passage.language)


def compare_models(
    a: LanguageModel,
    b: LanguageModel,
    passages: Sequence[Passage],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    progress: Progress,
) -> ModelComparison:
    """Measure both models on the same text, and let both answer the same prompts with the same sampling settings and seed.

    Raises:
        BulletError: a model computes NaN, or a prompt does not fit into its context.
    """
    sizes = np.array([len(passage.text.encode()) for passage in passages], dtype=np.float64)
    bits = []
    for model in (a, b):
        with progress.task(f"Scoring {model.label}", None):
            bits.append(_bits(model, [passage.text for passage in passages]))
    languages = np.array([passage.language for passage in passages])
    by_language = {str(code): _compared(bits, sizes, languages == code) for code in np.unique(languages)}
    return ModelComparison(
        a=_facts(a),
        b=_facts(b),
        text=_compared(bits, sizes, np.ones(len(sizes), dtype=bool)),
        by_language=by_language if len(by_language) > 1 else {},
        answers=answer_both(a, b, prompts, sampling, progress) if prompts else None,
    )


def answer_both(a: LanguageModel, b: LanguageModel, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> AnswerComparison:
    """Let both models answer the same prompts with the same settings and seed.

    Raises:
        BulletError: a prompt does not fit into a model's context, or its weights are damaged.
    """
    first, second = (_answers(model, prompts, sampling, progress) for model in (a, b))
    return _paired(prompts, first, second, sampling.seed)


def default_sampling(model: LanguageModel, seed: int) -> Sampling:
    """The sampling settings in the file of `model`, or the defaults, with `seed`."""
    settings = model.model.sampling if isinstance(model, BulletModel) else Sampling()
    return replace(settings, seed=seed)


def _facts(model: LanguageModel) -> ModelFacts:
    return {
        "model": model.label,
        "engine": model.engine,
        "vocab_size": model.vocab_size,
        "context": model.context,
        "chat_template": model.chats,
    }


def _bits(model: LanguageModel, texts: Sequence[str]) -> NDArray[np.float64]:
    """Bits of each text after the document mark, float64[n]."""
    encoded = [([] if model.start is None else [model.start]) + model.encode(text) for text in texts]
    return np.array([-scores.sum() / math.log(2) for scores in log_probs(model, encoded)])


def _compared(bits: Sequence[NDArray[np.float64]], sizes: NDArray[np.float64], chosen: NDArray[np.bool_]) -> TextComparison:
    a, b, weights = bits[0][chosen], bits[1][chosen], sizes[chosen]
    numbers = np.arange(len(weights))
    bootstrap = Bootstrap(choose_units(numbers, numbers))

    def interval(values: NDArray[np.float64]) -> Interval:
        return bootstrap.ratio(values, weights)

    return {
        "passages": len(weights),
        "bytes": int(weights.sum()),
        "a": interval(a).to_dict(),
        "b": interval(b).to_dict(),
        "difference": interval(b - a).to_dict(),
    }


def _answers(model: LanguageModel, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Answer]:
    answers: list[Answer] = []
    with progress.task(f"Answers of {model.label}", len(prompts)) as bar:
        for prompt, written in zip(prompts, model.answer([prompt.prompt for prompt in prompts], sampling), strict=True):
            answers.append(
                Answer(
                    text=written.text,
                    tokens=written.tokens,
                    ended=written.ended,
                    distinct_2=distinct_2(written.text),
                    longest_repeat=longest_repeat(written.text),
                    script_share=script_share(written.text, prompt.language),
                )
            )
            bar.advance()
    return answers


def _paired(prompts: Sequence[Prompt], a: list[Answer], b: list[Answer], seed: int) -> AnswerComparison:
    rows: list[AnswerPair] = [
        {"prompt": prompt.prompt, "language": prompt.language, "kind": prompt.kind, "a": first.to_dict(), "b": second.to_dict()}
        for prompt, first, second in zip(prompts, a, b, strict=True)
    ]
    return {
        "seed": seed,
        "identical": sum(first.text == second.text for first, second in zip(a, b, strict=True)),
        "checks": {"a": mean_checks(a), "b": mean_checks(b)},
        "rows": rows,
    }

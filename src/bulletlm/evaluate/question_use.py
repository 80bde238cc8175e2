"""Whether a model uses the question: is a held-out answer likelier after its own question than after another one?

A model that only knows what answers look like gives both the same probability, so half of its choices are right. The measure needs
conversations in the validation text, and no judgement of the answers.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bulletlm.evaluate.intervals import Interval, mean
from bulletlm.evaluate.perplexity import finite_logits, log_softmax
from bulletlm.hardware import available_cores
from bulletlm.progress import Progress
from bulletlm.runtime import Model, NativeEngine
from bulletlm.text.chat import encode_prompt
from bulletlm.text.documents import Document

FEWEST_PAIRS = 15
"""Fewer questions do not show anything."""
MOST_PAIRS = 80
OTHERS = 2
"""Other questions for each answer."""

_STREAM = 7


def question_use(model: Model, held_out: Sequence[Document], seed: int, progress: Progress) -> Interval | None:
    """Share of the choices in which the model prefers an answer's own question to another question of the same language.

    Args:
        model: the model.
        held_out: documents of the validation text.
        seed: decides which pairs and which other questions are compared.
        progress: shows the bar.

    Returns:
        the share with its interval over answers; None with fewer than FEWEST_PAIRS questions with answers.

    Raises:
        BulletError: the model computes NaN or infinity.
    """
    rng = np.random.default_rng([seed, _STREAM])
    pairs: dict[str, list[tuple[list[int], list[int]]]] = {}
    for document in held_out:
        messages = document.get("messages") or []
        if len(messages) >= 2 and messages[1]["role"] == "assistant":
            question = encode_prompt(model.tokenizer, [{"role": "user", "content": messages[0]["content"]}])
            pairs.setdefault(document["language"], []).append((question, model.tokenizer.encode(messages[1]["content"])))
    tasks: list[list[tuple[list[int], list[int]]]] = []
    for found in pairs.values():
        for n in rng.permutation(len(found)).tolist():
            question, answer = found[n]
            others = [found[k][0] for k in rng.permutation(len(found)).tolist() if found[k][0] != question][:OTHERS]
            longest = max(len(each) for each in (question, *others)) + len(answer)
            if len(others) == OTHERS and answer and longest <= model.shape.max_seq_len:
                tasks.append([(each, answer) for each in (question, *others)])
    if len(tasks) < FEWEST_PAIRS:
        return None
    chosen = [tasks[n] for n in sorted(rng.permutation(len(tasks))[:MOST_PAIRS].tolist())]
    workers = available_cores() if isinstance(model.engine, NativeEngine) else 1
    wins = []
    with progress.task("Questions and answers", len(chosen)) as bar, ThreadPoolExecutor(workers) as pool:
        for own, *others in pool.map(lambda task: [_log_probability(model, *each) for each in task], chosen):
            wins.append(float(np.mean([own > other for other in others])))
            bar.advance(1)
    return mean(wins, seed)


def _log_probability(model: Model, question: list[int], answer: list[int]) -> float:
    """Natural logarithm of the probability of the tokens `answer` after `question`."""
    ids = np.array([[*question, *answer]], dtype=np.int64)
    logits = finite_logits(model.engine, ids[:, :-1], "the model")[:, len(question) - 1 :]
    return float(np.take_along_axis(log_softmax(logits)[0], np.array(answer)[:, None], -1).sum())

"""Whether a model uses the question: is a person's answer likelier after its own question than after another one?

Choosing the next utterance among others is a usual test of models of conversation (Lowe et al. 2015). A model that only knows what
answers look like gives all questions the same probability, so half of its choices are right.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bulletlm.evaluate.intervals import Interval, mean_share
from bulletlm.evaluate.perplexity import finite_logits, log_softmax
from bulletlm.evaluate.question_pairs import Pair
from bulletlm.hardware import available_cores
from bulletlm.progress import Progress
from bulletlm.runtime import Model, NativeEngine

MOST_PAIRS = 80
OTHERS = 4
"""Other questions for each answer."""

_STREAM = 7


def question_use(model: Model, pairs: Sequence[Pair], seed: int, progress: Progress) -> Interval | None:
    """Share of the choices in which the model prefers an answer's own question to another question of the same language.

    Args:
        model: the model.
        pairs: questions with answers.
        seed: decides which pairs and which other questions are compared.
        progress: shows the bar.

    Returns:
        the share with its interval over answers; None without questions.

    Raises:
        BulletError: the model computes NaN or infinity.
    """
    rng = np.random.default_rng([seed, _STREAM])
    tasks: list[tuple[Pair, list[Pair]]] = []
    for n in sorted(rng.permutation(len(pairs))[:MOST_PAIRS].tolist()):
        pair, longest = pairs[n], model.shape.max_seq_len - len(pairs[n].answer_ids)
        others = [pairs[k] for k in rng.permutation(len(pairs)).tolist()]
        others = [each for each in others if _is_other(pair, each) and len(each.question_ids) <= longest][:OTHERS]
        if len(others) == OTHERS:
            tasks.append((pair, others))
    if not tasks:
        return None
    workers = available_cores() if isinstance(model.engine, NativeEngine) else 1

    def choices(task: tuple[Pair, list[Pair]]) -> list[float]:
        pair, others = task
        return [_log_probability(model, each.question_ids, pair.answer_ids) for each in (pair, *others)]

    wins = []
    with progress.task("Questions and answers", len(tasks)) as bar, ThreadPoolExecutor(workers) as pool:
        for own, *others in pool.map(choices, tasks):
            wins.append(float(np.mean([own > other for other in others])))
            bar.advance(1)
    return mean_share(wins, seed)


def _is_other(pair: Pair, other: Pair) -> bool:
    return other.language == pair.language and other.question != pair.question and other.answer != pair.answer


def _log_probability(model: Model, question: Sequence[int], answer: Sequence[int]) -> float:
    """Natural logarithm of the probability of the tokens `answer` after `question`."""
    ids = np.array([[*question, *answer]], dtype=np.int64)
    logits = finite_logits(model.engine, ids[:, :-1], "the model")[:, len(question) - 1 :]
    return float(np.take_along_axis(log_softmax(logits)[0], np.array(answer)[:, None], -1).sum())

"""Whether an answer belongs to its question: is it closer to a person's answer to that question than to answers to other questions?

A fluent answer that would serve any question as well is closer to the right answer in half of the comparisons, and so are answers that
are shuffled among the questions, or always the same. The distance is chrF, which needs no other model. A single answer is judged
roughly, because a question has many good answers; the mean over many questions is reliable (docs/evaluation.md).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bulletlm.evaluate.chrf import chrf_of_sequences, sequences
from bulletlm.evaluate.question_pairs import Pair

MOST_TOKENS = 64
"""Tokens of an answer at most; the answers of people are shorter."""


def answer_fit(pairs: Sequence[Pair], answers: Sequence[str]) -> npt.NDArray[np.float64]:
    """float64[n]: for each answer, the share of the other people's answers that it is less close to than to the right one.

    An answer that is as close to both counts one half.

    Args:
        pairs: n questions with the answers of people. Answers are compared with those of their own language.
        answers: n answers of a model.
    """
    wanted = [sequences(pair.answer) for pair in pairs]
    fits = np.full(len(pairs), 0.5)
    for n, (pair, answer) in enumerate(zip(pairs, answers, strict=True)):
        own = sequences(answer)
        right = chrf_of_sequences(own, wanted[n])
        rest = [
            chrf_of_sequences(own, wanted[k])
            for k, each in enumerate(pairs)
            if each.language == pair.language and each.answer != pair.answer
        ]
        if rest:
            fits[n] = np.mean([0.5 if right == other else float(right > other) for other in rest])
    return fits

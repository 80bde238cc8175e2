"""Which tokens the quantised model is calibrated on: windows from all over the training text, its languages balanced."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.data.language import detect
from bulletlm.errors import DataError
from bulletlm.tokenizer import Tokenizer

SMALLEST = 1_024
"""Tokens; fewer say too little about the inputs of a matrix."""

LONGEST_WINDOW = 512
"""Tokens; with longer ones, 20,000 tokens would be too few different texts."""

_CANDIDATES = 4
"""Windows looked at for each one taken: a rare language gets up to this many times its share."""

_PURPOSE = 5
"""Purpose number of the random generator."""


def calibration_windows(
    tokens: npt.NDArray[np.unsignedinteger[Any]], tokenizer: Tokenizer, count: int, max_seq_len: int, seed: int
) -> npt.NDArray[np.int64]:
    """Windows of the token stream, drawn at random and then taken from each language in turn.

    Half Marathi and half English matters: calibrated on one of them, a model loses another 1.1 % perplexity in the
    other. The stream is in random order, so a language's windows hold its sources in proportion.

    Args:
        tokens: [n] ids of documents one after another.
        tokenizer: tells the language of a window from its text.
        count: tokens wanted; where there are not so many, all are taken.
        max_seq_len: the model's context; windows are that long, up to LONGEST_WINDOW.
        seed: decides the choice.

    Returns:
        int64[windows, length].

    Raises:
        DataError: there are fewer than SMALLEST tokens, or one is not in the vocabulary.
    """
    length = min(max_seq_len, LONGEST_WINDOW)
    if len(tokens) < max(SMALLEST, length):
        raise DataError(
            f"the calibration text has {len(tokens):,} tokens, and at least {max(SMALLEST, length):,} are needed: give more text"
        )
    highest = int(tokens.max())
    if highest >= tokenizer.vocab_size:
        raise DataError(
            f"the calibration text holds the token {highest}, but the tokenizer has {tokenizer.vocab_size:,}: it was made with another one"
        )
    random = np.random.default_rng([seed, _PURPOSE])
    whole = len(tokens) // length
    wanted = min(max(1, count // length), whole)
    starts = length * random.permutation(whole)[: _CANDIDATES * wanted] + random.integers(len(tokens) - whole * length + 1)
    by_language: dict[str, list[int]] = {}
    for start in starts.tolist():
        text = tokenizer.decode(tokens[start : start + length].tolist())
        by_language.setdefault(detect(text), []).append(start)
    queues = [by_language[language] for language in sorted(by_language)]
    chosen: list[int] = []
    while len(chosen) < wanted:
        queues = [queue for queue in queues if queue]
        chosen += [queue.pop(0) for queue in queues]
    return np.stack([np.asarray(tokens[start : start + length], dtype=np.int64) for start in chosen[:wanted]])

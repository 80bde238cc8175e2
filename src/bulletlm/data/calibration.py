"""Selects the tokens for calibrating the quantized model: windows from all over the training text, balanced by language and source."""

from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest

import numpy as np
import numpy.typing as npt

from bulletlm.data.language import detect
from bulletlm.data.tokens import TokenFile
from bulletlm.errors import DataError
from bulletlm.text.tokenizer import Tokenizer

SMALLEST = 256
"""Tokens; a thousand say something about the inputs of a matrix, but a model of little text must be finished too."""

LONGEST_WINDOW = 512
"""Tokens; with longer ones, 20,000 tokens would be too few different texts."""

_CANDIDATES = 4
"""Windows looked at for each one taken: a rare language gets up to this many times its share."""

_PURPOSE = 5
"""Purpose number of the random generator."""


def calibration_windows(text: TokenFile, tokenizer: Tokenizer, count: int, max_seq_len: int, seed: int) -> npt.NDArray[np.int64]:
    """Windows of the token stream, drawn at random and then taken from each language in turn, and in each from its sources in turn.

    Half Marathi and half English matters: calibrated on one of them, a model loses another 1.1 % perplexity in the
    other. Where the sources of the documents are not known, a language's windows hold them in proportion: the stream is in random order.

    Args:
        text: documents one after another.
        tokenizer: tells the language of a window from its text.
        count: tokens wanted; where there are fewer, all are taken.
        max_seq_len: the model's context; windows are that long, up to LONGEST_WINDOW and the length of the text.
        seed: decides the choice.

    Returns:
        int64[windows, length].

    Raises:
        DataError: there are fewer than SMALLEST tokens, or one is not in the vocabulary.
    """
    tokens = text.tokens
    if len(tokens) < SMALLEST:
        raise DataError(f"the calibration text has {len(tokens):,} tokens, and at least {SMALLEST:,} are needed: give more text")
    length = min(max_seq_len, LONGEST_WINDOW, len(tokens))
    highest = int(tokens.max())
    if highest >= tokenizer.vocab_size:
        raise DataError(
            f"the calibration text holds the token {highest}, but the tokenizer has {tokenizer.vocab_size:,}: it was made with another one"
        )
    random = np.random.default_rng([seed, _PURPOSE])
    whole = len(tokens) // length
    wanted = min(max(1, count // length), whole)
    starts = length * random.permutation(whole)[: _CANDIDATES * wanted] + random.integers(len(tokens) - whole * length + 1)
    groups: dict[str, dict[int, list[int]]] = {}
    for start, source in zip(starts.tolist(), _sources_at(text, starts + length // 2), strict=True):
        language = detect(tokenizer.decode(tokens[start : start + length].tolist()))
        groups.setdefault(language, {}).setdefault(source, []).append(start)
    chosen = _in_turn(_in_turn(sources[number] for number in sorted(sources)) for _, sources in sorted(groups.items()))
    return np.stack([np.asarray(tokens[start : start + length], dtype=np.int64) for start in islice(chosen, wanted)])


def _sources_at(text: TokenFile, places: npt.NDArray[np.int64]) -> list[int]:
    """The number of the source that each of some places in the stream belongs to; one for all where it is not known."""
    if text.sources is None:
        return [0] * len(places)
    ends = np.cumsum(text.sources[:, 0], dtype=np.int64)
    return [int(number) for number in text.sources[np.searchsorted(ends, places, side="right"), 1]]


def _in_turn(parts: Iterable[Iterable[int]]) -> Iterator[int]:
    """The first of each, the second of each, and so on; who has no more is left out."""
    return (item for row in zip_longest(*parts) for item in row if item is not None)

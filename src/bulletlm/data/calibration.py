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
"""Minimum number of tokens. A thousand would give better statistics, but models trained on little text must be quantized too."""

LONGEST_WINDOW = 512
"""Maximum window length in tokens; longer windows would cover too few different texts in 20,000 tokens."""

_CANDIDATES = 4
"""Number of candidate windows per selected window; a rare language gets up to this many times its share."""

_PURPOSE = 5
"""Stream number of the random generator."""


def calibration_windows(text: TokenFile, tokenizer: Tokenizer, count: int, max_seq_len: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw random windows of the token stream, then select from the languages in turn, and within a language from its sources in turn.

    The balance matters: a model that is calibrated on Marathi or English alone loses another 1.1 % perplexity in the other
    language. If the sources of the documents are unknown, their shares follow the stream, which is in random order.

    Args:
        text: concatenated documents.
        tokenizer: decodes windows, so that their language can be detected.
        count: number of tokens wanted; if the text has fewer, all are used.
        max_seq_len: the model's context; the window length, limited by LONGEST_WINDOW and the length of the text.
        seed: seed of the random choice.

    Returns:
        int64[windows, length].

    Raises:
        DataError: there are fewer than SMALLEST tokens, or one is not in the vocabulary.
    """
    tokens = text.tokens
    if len(tokens) < SMALLEST:
        raise DataError(f"the calibration text has {len(tokens):,} tokens, but at least {SMALLEST:,} are needed: provide more text")
    length = min(max_seq_len, LONGEST_WINDOW, len(tokens))
    highest = int(tokens.max())
    if highest >= tokenizer.vocab_size:
        raise DataError(
            f"the calibration text has token {highest}, but the tokenizer has {tokenizer.vocab_size:,}: use the one that encoded it"
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
    """The source number of each position in the stream; the same number for all if the sources are unknown."""
    if text.sources is None:
        return [0] * len(places)
    ends = np.cumsum(text.sources[:, 0], dtype=np.int64)
    return [int(number) for number in text.sources[np.searchsorted(ends, places, side="right"), 1]]


def _in_turn(parts: Iterable[Iterable[int]]) -> Iterator[int]:
    """Round-robin: the first item of each part, the second of each, and so on; exhausted parts are skipped."""
    return (item for row in zip_longest(*parts) for item in row if item is not None)

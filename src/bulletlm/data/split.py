"""Chooses the validation set: whole documents from every language and source, by hash, independent of their order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_SHARE = 0.1
"""A validation set takes at most this share of the characters."""

_SOURCE_SHARE = 0.2
_TOLERANCE = 1.5
_SMALLEST = 60


def choose_validation(
    characters: npt.NDArray[np.int64],
    strata: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.uint64],
    target: int,
    paragraphs_of: Callable[[int], Sequence[int]],
) -> dict[int, int]:
    """Choose validation documents of about `target` characters in total.

    Each stratum (a language in a source) gives its share, in the order of `ranks`, up to a fifth of its size; if a stratum of
    few or long documents cannot give its share, the next ones give more. A document much longer than the remaining target is
    cut in two documents, and the later one is chosen.

    Args:
        characters: [n] size of each document.
        strata: [n] index of its stratum; strata are processed in the order of their indices.
        ranks: [n] hash of content and seed.
        paragraphs_of: the sizes of a document's paragraphs; empty for a conversation, which cannot be cut.

    Returns:
        Document -> its first paragraph that belongs to validation (0: the whole document).
    """
    chosen: dict[int, int] = {}
    total = int(characters.sum())
    owed = 0.0
    order = np.lexsort((ranks, strata))
    for members in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        size = int(characters[members].sum())
        owed += target * size / total
        owed -= _take(members, characters, chosen, owed, _SOURCE_SHARE * size, paragraphs_of)
    if owed > LARGEST_SHARE * target:  # few, long documents: take any of them
        _take(np.argsort(ranks, kind="stable"), characters, chosen, owed, total, paragraphs_of)
    return chosen or _smallest(characters, paragraphs_of)


def _smallest(characters: npt.NDArray[np.int64], paragraphs_of: Callable[[int], Sequence[int]]) -> dict[int, int]:
    """The smallest possible choice for a very small text: the smallest document, or the last paragraph of the only document."""
    if len(characters) > 1:
        return {int(np.argmin(characters)): 0}
    paragraphs = paragraphs_of(0) if len(characters) else []
    return {0: len(paragraphs) - 1} if len(paragraphs) > 1 else {}


def _take(
    members: npt.NDArray[Any],
    characters: npt.NDArray[np.int64],
    chosen: dict[int, int],
    wanted: float,
    limit: float,
    paragraphs_of: Callable[[int], Sequence[int]],
) -> int:
    """Choose from `members` until `wanted` characters are reached; return the number of characters."""
    taken = 0
    for document in members.tolist():
        missing = min(wanted, limit) - taken
        if missing < _SMALLEST:
            break
        if document in chosen:
            continue
        size = int(characters[document])
        first = 0
        if size > _TOLERANCE * missing:
            paragraphs = paragraphs_of(document)
            first = len(paragraphs)
            size = 0
            while first > 1 and size + paragraphs[first - 1] <= missing:
                first -= 1
                size += paragraphs[first]
            if not size:
                continue
        chosen[document] = first
        taken += size
    return taken

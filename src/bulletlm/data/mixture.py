"""How often each document goes into the training stream, so that sources, languages and conversations get their shares."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bulletlm.data.dedup import CHARACTERS_PER_TOKEN

if TYPE_CHECKING:
    from bulletlm.config import MixConfig, Source

_ROUNDS = 50

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Cells:
    """Documents in groups of one file, language and kind.

    Attributes:
        keys: (file, language, is a conversation) of each cell.
        of: [documents] the cell of each.
        sizes: [cells] characters.
    """

    keys: list[tuple[str, str, bool]]
    of: Ints
    sizes: Floats


def copies(cells: Cells, characters: Ints, ranks: npt.NDArray[np.uint64], rates: Floats) -> Ints:
    """[documents] how often each goes in: the rate of its cell, rounded so that a cell comes out right as a whole.

    At a rate of 2.3 every document goes in twice, and those of the lowest ranks that make up 0.3 of the text once more.
    """
    order = np.lexsort((ranks, cells.of))
    sizes = characters[order].astype(np.float64)
    before = np.cumsum(sizes) - sizes
    first = np.searchsorted(cells.of[order], np.arange(len(cells.keys)))
    before -= before[np.minimum(first, max(len(order) - 1, 0))][cells.of[order]] if len(order) else 0
    whole = np.floor(rates)
    extra = before + sizes / 2 < ((rates - whole) * cells.sizes)[cells.of[order]]
    result = np.zeros(len(order), dtype=np.int64)
    result[order] = whole[cells.of[order]].astype(np.int64) + extra
    return result


def rates(cells: Cells, sources: list["Source"], source_of: dict[str, int], mix: "MixConfig") -> Floats:
    """[cells] how often the documents of each go in.

    Weights and budgets of the sources come first; then languages and conversations get their shares (iterative
    proportional fitting of the table language x kind), with the length of the stream kept or as asked for.
    """
    weight = np.array([sources[source_of[file]].weight for file, _, _ in cells.keys])
    asked = cells.sizes * weight
    for number, source in enumerate(sources):
        if source.tokens is not None:
            own = np.array([source_of[file] == number for file, _, _ in cells.keys])
            total = asked[own].sum()
            if total > source.tokens * CHARACTERS_PER_TOKEN:
                asked[own] *= source.tokens * CHARACTERS_PER_TOKEN / total
    length = mix.tokens * CHARACTERS_PER_TOKEN if mix.tokens is not None else asked.sum()
    languages = sorted({language for _, language, _ in cells.keys})
    row = np.array([languages.index(language) for _, language, _ in cells.keys])
    column = np.array([int(conversation) for _, _, conversation in cells.keys])
    table = np.zeros((len(languages), 2))
    np.add.at(table, (row, column), asked)
    shares = _language_shares(languages, table.sum(axis=1), mix)
    limit = np.maximum(mix.max_repeats, weight) * cells.sizes
    wanted = asked * _factors(table, shares, mix.conversations, length)[row, column]
    # What the limit on repetition withholds from some, the others make up for as far as they can.
    for _ in range(_ROUNDS):
        room = (wanted < limit) & (wanted > 0)
        missing = min(length, limit[wanted > 0].sum()) - np.minimum(wanted, limit).sum()
        wanted = np.minimum(wanted, limit)
        if missing <= 1 or not room.any():
            break
        wanted[room] *= 1 + missing / wanted[room].sum()
    rate: Floats = np.divide(wanted, cells.sizes, out=np.zeros_like(wanted), where=cells.sizes > 0)
    return rate.round(9)


def _language_shares(languages: list[str], sizes: Floats, mix: "MixConfig") -> Floats | None:
    """Share of each language in the stream; None to leave them as they are."""
    natural = sizes / max(sizes.sum(), 1)
    lifted: Floats = natural ** (1 / mix.temperature)
    lifted /= max(lifted.sum(), 1e-300)
    if not mix.languages:
        return lifted if mix.temperature > 1 else None
    named = np.array([mix.languages.get(language, 0.0) for language in languages])
    is_named = np.array([language in mix.languages for language in languages])
    rest = max(1 - sum(mix.languages.values()), 0.0)
    others = np.where(is_named, 0.0, lifted)
    if others.sum():
        named = named + rest * others / others.sum()
    return named / named.sum() if named.sum() else None


def _factors(table: Floats, shares: Floats | None, conversations: float | None, length: float) -> Floats:
    """What each language x kind is multiplied by."""
    fitted = table.copy()
    kinds = np.array([1 - conversations, conversations]) if conversations is not None and table.sum(axis=0).all() else None
    for _ in range(_ROUNDS):
        for axis, target in ((1, shares), (0, kinds)):
            if target is not None:
                sums = fitted.sum(axis=axis)
                scale = np.divide(target * fitted.sum(), sums, out=np.zeros_like(sums), where=sums > 0)
                fitted *= scale[:, None] if axis == 1 else scale
        if shares is None and kinds is not None:  # languages as they were
            sums = fitted.sum(axis=1)
            natural = table.sum(axis=1)
            fitted *= np.divide(natural, sums, out=np.zeros_like(sums), where=sums > 0)[:, None]
    if fitted.sum():
        fitted *= length / fitted.sum()
    return np.divide(fitted, table, out=np.zeros_like(table), where=table > 0)


def mixture_table(cells: Cells, characters: Ints, taken: Ints) -> list[dict[str, Any]]:
    """What goes in: a row for each file, language and kind, with what there is and what the stream holds of it."""
    available = np.bincount(cells.of, minlength=len(cells.keys))
    streamed = np.bincount(cells.of, weights=characters * taken, minlength=len(cells.keys))
    total = max(streamed.sum(), 1)
    return [
        {
            "source": file,
            "language": language,
            "kind": "conversations" if conversation else "documents",
            "documents": int(available[n]),
            "tokens": int(cells.sizes[n]) // CHARACTERS_PER_TOKEN,
            "times": round(streamed[n] / max(cells.sizes[n], 1), 3),
            "stream_tokens": int(streamed[n]) // CHARACTERS_PER_TOKEN,
            "share": round(streamed[n] / total, 4),
        }
        for n, (file, language, conversation) in enumerate(cells.keys)
    ]

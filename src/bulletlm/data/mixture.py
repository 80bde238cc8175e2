"""The mixture: how often each document goes into the training stream, so that sources, languages and conversations get their shares."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bulletlm.data.dedup import CHARACTERS_PER_TOKEN

if TYPE_CHECKING:
    from bulletlm.config.schema import MixConfig, Source

_ROUNDS = 200

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
    """[documents] how often each document is used: the rate of its cell, rounded so that the total of the cell is correct.

    At a rate of 2.3 every document is used twice, and the documents of the lowest ranks that make up 0.3 of the text once more.
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


def rates(cells: Cells, sources: list["Source"], source_of: dict[str, int], mix: "MixConfig", own_sources: int | None = None) -> Floats:
    """[cells] how often the documents of each cell are used.

    Weights and budgets of the sources are applied first; then languages and conversations get their shares (iterative
    proportional fitting), and the stream keeps its length or gets the configured length. Budgets and the limit on repetition
    always hold; the text that they exclude is replaced by other text of the same language and kind, else by other text of the
    same language, else by any other text.

    General text comes on top of the other text, in the share data.mix.general of both, or as often as the limit on repetition allows.

    Args:
        cells: the groups of documents.
        sources: the entries of data.sources, then those of the general text.
        source_of: file name -> index of its source.
        mix: the settings of the mixture.
        own_sources: number of sources before those of the general text; None if there are no others.
    """
    weight = np.array([sources[source_of[file]].weight for file, _, _ in cells.keys])
    limit = np.maximum(mix.max_repeats, weight) * cells.sizes
    home = np.array([source_of[file] for file, _, _ in cells.keys])
    budgets = [(home == n, source.tokens * CHARACTERS_PER_TOKEN) for n, source in enumerate(sources) if source.tokens is not None]

    def limited(wanted: Floats) -> Floats:
        wanted = np.minimum(wanted, limit)
        for own, budget in budgets:
            if wanted[own].sum() > budget:
                wanted[own] *= budget / wanted[own].sum()
        return wanted

    wanted = limited(cells.sizes * weight)
    general = home >= (len(sources) if own_sources is None else own_sources)
    if mix.general and wanted[general].sum():
        wanted[general] *= mix.general / (1 - mix.general) * wanted[~general].sum() / wanted[general].sum()
        wanted = limited(wanted)
    length = mix.tokens * CHARACTERS_PER_TOKEN if mix.tokens is not None else wanted.sum()
    languages = sorted({language for _, language, _ in cells.keys})
    language = np.array([languages.index(language) for _, language, _ in cells.keys])
    kind = np.array([int(conversation) for _, _, conversation in cells.keys])
    by_kind = np.bincount(kind, weights=wanted, minlength=2)
    by_language = np.bincount(language, weights=wanted, minlength=len(languages))
    shares = _language_shares(languages, by_language.astype(np.float64), mix)
    targets: list[tuple[Ints, Floats]] = []
    if mix.conversations is not None and by_kind.all():
        targets.append((kind, np.array([1 - mix.conversations, mix.conversations])))
        shares = by_language / by_language.sum() if shares is None else shares
    if shares is not None:
        targets.append((language, shares))
    if targets and general.any():
        part = wanted[general].sum() / max(wanted.sum(), 1)
        targets.append((general.astype(np.int64), np.array([1 - part, part])))
    targets = targets or [(np.zeros_like(kind), np.ones(1))]
    for _ in range(_ROUNDS):
        for groups, target in targets:
            wanted = _scaled(wanted, groups, target * length)
    wished = wanted
    wanted = limited(wanted)
    for groups in (2 * language + kind, language, np.zeros_like(kind)):
        target = np.bincount(groups, weights=wished) * (length / max(wished.sum(), 1))
        for _ in range(_ROUNDS):
            before = wanted
            wanted = limited(_scaled(wanted, groups, target))
            if np.abs(wanted - before).sum() < 1:
                break
    rate: Floats = np.divide(wanted, cells.sizes, out=np.zeros_like(wanted), where=cells.sizes > 0)
    return rate.round(9)


def _scaled(wanted: Floats, groups: Ints, target: Floats) -> Floats:
    """Scale `wanted` so that the sum of each group that is not empty equals its target."""
    sums = np.bincount(groups, weights=wanted, minlength=len(target))
    scaled: Floats = wanted * np.divide(target, sums, out=np.zeros_like(sums, dtype=np.float64), where=sums > 0)[groups]
    return scaled


def _language_shares(languages: list[str], sizes: Floats, mix: "MixConfig") -> Floats | None:
    """Share of each language in the stream; None to keep the current shares."""
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


def mixture_table(cells: Cells, characters: Ints, taken: Ints) -> list[dict[str, Any]]:
    """The table of the mixture: for each file, language and kind, the available text and its part in the stream."""
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

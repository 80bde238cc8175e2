"""Duplicate removal: boilerplate lines, exact copies, near copies and length outliers. Works on hashes and lengths, never on text.

All steps sort arrays of hashes, 8 bytes per paragraph, so memory use is about 1/50 of the text's size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bulletlm.data.clean_corpus import Cleaned, key_of_paragraphs
from bulletlm.data.rules import REPEAT_CHARACTERS
from bulletlm.data.shingles import BANDS, similarity

if TYPE_CHECKING:
    from bulletlm.config.schema import CleanConfig

CHARACTERS_PER_TOKEN = 3
"""Average for a vocabulary of 4,000 pieces, in Marathi and in English: an estimate for counts before the tokenizer is trained."""

REASONS = ("", "boilerplate", "repeated_paragraph", "repeated_document", "near_duplicate", "short_outlier", "long_outlier")
_BOILERPLATE, _REPEATED_PARAGRAPH, _REPEATED_DOCUMENT, _NEAR, _SHORT, _LONG = range(1, len(REASONS))

_PAIRS_AT_ONCE = 1 << 17

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass
class Verdict:
    """The reason for each paragraph and each document, as an index into REASONS; 0 if it is kept.

    A document with reason 0 may have lost some or all of its paragraphs.

    Attributes:
        owner: [paragraphs] the document of each paragraph.
        first: [documents + 1] index of each document's first paragraph.
        keys: [documents] hash of the remaining text of each document.
    """

    paragraphs: npt.NDArray[np.uint8]
    documents: npt.NDArray[np.uint8]
    owner: Ints
    first: Ints
    keys: npt.NDArray[np.uint64]

    def alive(self) -> Bools:
        """[documents] whether any text of each document is left."""
        lost = np.bincount(self.owner[self.paragraphs > 0], minlength=len(self.documents))
        sizes = np.diff(self.first)
        alive: Bools = (self.documents == 0) & ((sizes == 0) | (lost < sizes))
        return alive


def find_repeats(cleaned: Cleaned, config: "CleanConfig") -> Verdict:
    """Apply the rules that compare documents with each other."""
    documents, paragraphs = cleaned.documents, cleaned.paragraphs
    sizes = np.where(documents["conversation"], 0, documents["rows"]).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(len(documents)), sizes)
    verdict = Verdict(np.zeros(len(paragraphs), np.uint8), np.zeros(len(documents), np.uint8), owner, first, documents["key"].copy())
    if config.boilerplate:
        files = documents["file"][owner]
        verdict.paragraphs[_boilerplate(paragraphs, owner, files, config.boilerplate)] = _BOILERPLATE
    if config.duplicates:
        _repeated(paragraphs, verdict, config.duplicate_lines)
    if config.near_duplicates:
        _near(cleaned, config.near_duplicates, verdict)
    _outliers(paragraphs, documents, verdict, config)
    _update_keys(paragraphs, verdict)
    return verdict


def _boilerplate(paragraphs: npt.NDArray[np.void], owner: Ints, files: npt.NDArray[np.int32], least: int) -> Ints:
    """Headings that occur in at least `least` documents of one file, except the first occurrence of each."""
    rows = np.flatnonzero(paragraphs["heading"])
    order = rows[np.lexsort((rows, paragraphs["key"][rows], files[rows]))]
    if not len(order):
        return order
    keys, homes, owners = paragraphs["key"][order], files[order], owner[order]
    begins = np.concatenate([[True], (keys[1:] != keys[:-1]) | (homes[1:] != homes[:-1])])
    another = begins | np.concatenate([[True], owners[1:] != owners[:-1]])
    line = np.cumsum(begins) - 1
    often = np.bincount(line[another]) >= least
    recurring: Ints = order[often[line] & ~begins]
    return recurring


def _repeated(paragraphs: npt.NDArray[np.void], verdict: Verdict, lines: str) -> None:
    """Mark exact copies of earlier documents, then lines that an earlier document has, then documents that have become copies.

    A copy is found first, as a whole: without its long lines it would no longer equal the original, and its short lines would stay.

    Args:
        lines: "sentences" drops lines of whole sentences, "all" every line of 30 characters or more, "off" none.
    """
    _update_keys(paragraphs, verdict)
    _repeated_documents(verdict)
    long = paragraphs["characters"] >= REPEAT_CHARACTERS
    wanted = {"off": np.zeros(len(paragraphs), dtype=bool), "sentences": paragraphs["sentence"], "all": long}[lines]
    rows = np.flatnonzero(wanted & (verdict.paragraphs == 0) & (verdict.documents == 0)[verdict.owner])
    order = rows[np.argsort(paragraphs["key"][rows], kind="stable")]
    if len(order):
        keys, owners = paragraphs["key"][order], verdict.owner[order]
        begins = np.concatenate([[True], keys[1:] != keys[:-1]])
        first_owner = owners[np.flatnonzero(begins)][np.cumsum(begins) - 1]
        verdict.paragraphs[order[owners != first_owner]] = _REPEATED_PARAGRAPH
    _update_keys(paragraphs, verdict)
    _repeated_documents(verdict)


def _repeated_documents(verdict: Verdict) -> None:
    left = np.flatnonzero(verdict.alive())
    order = left[np.argsort(verdict.keys[left], kind="stable")]
    again = order[1:][verdict.keys[order[1:]] == verdict.keys[order[:-1]]]
    verdict.documents[again] = _REPEATED_DOCUMENT


def _near(cleaned: Cleaned, least: float, verdict: Verdict) -> None:
    lost = np.bincount(verdict.owner[verdict.paragraphs > 0], minlength=len(verdict.documents)) > 0
    # The signature of a document that has lost paragraphs describes the original text: its paragraphs are compared instead.
    rows = cleaned.whole["row"]
    near = near_copies(cleaned.whole, (verdict.alive() & ~lost)[rows], least)
    verdict.documents[rows[near]] = _NEAR
    rows = cleaned.parts["row"]
    alive = (verdict.paragraphs == 0) & verdict.alive()[verdict.owner]
    near = near_copies(cleaned.parts, alive[rows], least)
    verdict.paragraphs[rows[near]] = _NEAR


def near_copies(signed: npt.NDArray[np.void], wanted: Bools, least: float) -> Bools:
    """[n] which texts are similar to an earlier one. Candidates share a band; the full signatures are compared."""
    dropped = np.zeros(len(signed), dtype=bool)
    for band in range(BANDS):
        rows = np.flatnonzero(wanted & ~dropped)
        values = signed["bands"][:, band][rows]
        order = np.argsort(values, kind="stable")
        rows, values = rows[order], values[order]
        same = np.flatnonzero(values[1:] == values[:-1]) + 1
        if not len(same):
            continue
        begins = np.concatenate([[True], values[1:] != values[:-1]])
        first = np.flatnonzero(begins)[np.cumsum(begins) - 1]
        for others in (first[same], same - 1):
            for start in range(0, len(same), _PAIRS_AT_ONCE):
                part = slice(start, start + _PAIRS_AT_ONCE)
                later, earlier = rows[same[part]], rows[others[part]]
                alike = similarity(signed["values"][later], signed["values"][earlier]) >= least
                dropped[later[alike]] = True
    return dropped


def _outliers(paragraphs: npt.NDArray[np.void], documents: npt.NDArray[np.void], verdict: Verdict, config: "CleanConfig") -> None:
    """Mark rows outside the percentiles that are also shorter or longer than the limits, in estimated tokens."""
    alive = verdict.alive()
    parts = np.flatnonzero((verdict.paragraphs == 0) & alive[verdict.owner])
    talks = np.flatnonzero(alive & documents["conversation"])
    tokens = np.concatenate([paragraphs["characters"][parts], documents["characters"][talks]]) / CHARACTERS_PER_TOKEN
    if not len(tokens):
        return
    # No interpolation: with a few hundred rows, the longest one would always be above an interpolated percentile.
    least = np.percentile(tokens, config.short_percentile, method="lower")
    most = np.percentile(tokens, config.long_percentile, method="higher")
    short = (tokens < least) & (tokens < config.short_tokens)
    long = (tokens > most) & (tokens > config.long_tokens)
    for outliers, reason in ((short, _SHORT), (long, _LONG)):
        verdict.paragraphs[parts[outliers[: len(parts)]]] = reason
        verdict.documents[talks[outliers[len(parts) :]]] = reason


def _update_keys(paragraphs: npt.NDArray[np.void], verdict: Verdict) -> None:
    """Recompute the hashes of documents that have lost paragraphs."""
    for document in np.unique(verdict.owner[verdict.paragraphs > 0]).tolist():
        part = slice(verdict.first[document], verdict.first[document + 1])
        verdict.keys[document] = key_of_paragraphs(paragraphs["key"][part][verdict.paragraphs[part] == 0])

"""Validation leaks: finds training text that repeats validation text, and checks the finished files for it.

Text is compared in passages (paragraphs, messages, and each document as a whole), by words alone. A passage repeats
another one if the two are equal (30 characters or more), if half of the word 8-grams of the shorter one are in both,
or if they are similar (Jaccard similarity of word 3-grams, with candidates found by MinHash). Shorter sentences, such as
"Thank you.", are common in the language and do not count as copies.

`find_copies` checks the documents before training text is chosen; `check_leaks` reads the finished files, which also
contain augmented copies. The report measures with `Index.repeated_words` and
`Index.repeated_runs` how much of the validation text is repeated.

Test texts (`data.held_out`) are compared more strictly, because tests consist of short sentences: a passage of any length
that equals one of them, or contains one of four words or more, is a copy too.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from bulletlm.data.rules import REPEAT_CHARACTERS
from bulletlm.data.shingles import BANDS, Hashes, hash_words, minhash, ngrams, signatures, words_of
from bulletlm.data.signals import NEAR_SEQUENCE, NEAR_WORDS_NEEDED
from bulletlm.text.documents import Document, texts_of

SAME_CHARACTERS = REPEAT_CHARACTERS
"""Minimum length; shorter passages may occur in both training and validation text."""

SEQUENCE = 8
SHARED_SEQUENCES = 4
"""Corresponds to eleven consecutive words, or to several shorter sequences."""

SHARE = 0.5
NEAR = 0.8

RUN_WORDS = 50
"""An excerpt: this many words in a row, more than the set phrases of official language have. Only `Index.repeated_runs` looks for it."""

CONTAINED_WORDS = 4
"""Minimum length of a held-out text that a longer passage may not contain; "I am here" is common in the language."""

BLOCK_BYTES = 1 << 20
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SEEN_BITS = 20
_SEEN_SHIFT = np.uint64(64 - _SEEN_BITS)

Ints = npt.NDArray[np.int64]
_Signed = tuple[npt.NDArray[np.void], Hashes, Ints]


@dataclass
class Passages:
    """Passages of documents as word hashes.

    Attributes:
        flat, starts: as `hash_words` returns them.
        document: [n] index of the document of each passage.
        part: [n] index of the paragraph or message in the document; -1 for the document as a whole.
        long: [n] whether the passage has at least 30 characters.
    """

    flat: Hashes
    starts: Ints
    document: Ints
    part: Ints
    long: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> "Passages":
        """The passages of `documents`, numbered in their order."""
        words: list[list[str]] = []
        places: list[tuple[int, int, int]] = []
        for number, document in enumerate(documents):
            parts = texts_of(document) if "messages" in document else document["text"].split("\n")
            own = [words_of(part) for part in parts]
            words += own
            places += [(number, part, len(text)) for part, text in enumerate(parts)]
            if len(own) > 1:
                words.append([word for part in own for word in part])
                places.append((number, -1, sum(map(len, parts))))
        flat, starts = hash_words(words)
        where = np.array(places, dtype=np.int64).reshape(-1, 3)
        return cls(flat, starts, where[:, 0], where[:, 1], where[:, 2] >= SAME_CHARACTERS)

    def same(self, of_any_length: bool = False) -> Hashes:
        """[n] hash of all words of each passage; 0 if it has no word, or if it is short and `of_any_length` is false."""
        lengths = np.diff(self.starts)
        place = np.arange(len(self.flat)) - np.repeat(self.starts[:-1], lengths)
        longest = int(lengths.max(initial=0))
        powers = np.cumprod(np.full(longest + 1, _MIX | np.uint64(1)), dtype=np.uint64)
        summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self.flat * powers[place], dtype=np.uint64)])
        whole = summed[self.starts[1:]] - summed[self.starts[:-1]]
        return np.where((self.long | of_any_length) & (lengths > 0), whole * _MIX | np.uint64(1), np.uint64(0))

    def sequences(self) -> tuple[Hashes, Ints]:
        """The distinct word 8-grams of each passage and the index of their passage, ordered by both."""
        grams, starts = ngrams(self.flat, self.starts, SEQUENCE)
        return _different(grams, starts, np.arange(len(starts) - 1))


def _different(grams: Hashes, starts: Ints, rows: Ints) -> tuple[Hashes, Ints]:
    """The distinct n-grams of some passages, and the passage of each, ordered by both."""
    chosen = np.zeros(len(starts) - 1, dtype=bool)
    chosen[rows] = True
    lengths = np.diff(starts)
    owner = np.repeat(rows, lengths[rows])
    grams = grams[np.repeat(chosen, lengths)]
    order = np.lexsort((grams, owner))
    grams, owner = grams[order], owner[order]
    new = np.ones(len(grams), dtype=bool)
    new[1:] = (grams[1:] != grams[:-1]) | (owner[1:] != owner[:-1])
    return grams[new], owner[new]


class Index:
    """An index of the validation text, or of test texts, for comparisons.

    Args:
        documents: the texts.
        strict: compare passages of any length, and find texts inside longer passages.
    """

    def __init__(self, documents: list[Document], strict: bool = False) -> None:
        passages = Passages.of(documents)
        self.strict = strict
        self.same = np.unique(passages.same(strict))
        self.same = self.same[self.same > 0]
        grams, owner = passages.sequences()
        order = np.argsort(grams, kind="stable")
        self.grams, self.begins = np.unique(grams[order], return_index=True)
        self.ends = np.append(self.begins[1:], len(grams))
        self.owners = owner[order]
        self._seen = np.zeros(1 << _SEEN_BITS, dtype=bool)
        self._seen[self.grams >> _SEEN_SHIFT] = True
        self.sizes = np.bincount(owner, minlength=len(passages.document))
        self.passages = passages

    @cached_property
    def signed(self) -> "_Signed":
        """MinHash signatures of the passages, and the n-grams they were computed from."""
        return _signed(self.passages)

    def same_as(self, passages: Passages) -> npt.NDArray[np.bool_]:
        """[n] which passages are equal to a validation passage."""
        return np.isin(passages.same(self.strict), self.same)

    @cached_property
    def beginnings(self) -> dict[int, list[Hashes]]:
        """Hash of the first words of the texts that no passage may contain -> the words of each text; empty unless `strict`."""
        found: dict[int, list[Hashes]] = {}
        for begin, end in zip(self.passages.starts, self.passages.starts[1:], strict=False):
            words = self.passages.flat[begin:end]
            if self.strict and len(words) >= CONTAINED_WORDS:
                first, _ = ngrams(words[:CONTAINED_WORDS], np.array([0, CONTAINED_WORDS]), CONTAINED_WORDS)
                found.setdefault(int(first[0]), []).append(words)
        return found

    def containing(self, passages: Passages) -> npt.NDArray[np.bool_]:
        """[n] which passages contain a text of `beginnings` as consecutive words."""
        found = np.zeros(len(passages.document), dtype=bool)
        if not self.beginnings:
            return found
        grams, starts = ngrams(passages.flat, passages.starts, CONTAINED_WORDS)
        hits = np.flatnonzero(np.isin(grams, np.fromiter(self.beginnings, np.uint64)))
        for hit in hits.tolist():
            row = int(np.searchsorted(starts, hit, side="right")) - 1
            begin = int(passages.starts[row]) + hit - int(starts[row])
            end = int(passages.starts[row + 1])
            found[row] |= any(
                begin + len(words) <= end and np.array_equal(passages.flat[begin : begin + len(words)], words)
                for words in self.beginnings[int(grams[hit])]
            )
        return found

    def overlapping(self, passages: Passages) -> npt.NDArray[np.bool_]:
        """[n] which passages share half of the word 8-grams of the shorter one with a validation passage."""
        found = np.zeros(len(passages.document), dtype=bool)
        found[self._overlapping_pairs(passages)[0]] = True
        return found

    def _overlapping_pairs(self, passages: Passages) -> tuple[Ints, Ints]:
        """The passages that `overlapping` finds, and for each the validation passage that it repeats; both may occur several times."""
        none = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if not len(self.grams):
            return none
        grams, starts = ngrams(passages.flat, passages.starts, SEQUENCE)
        # Few passages share any n-gram with validation text: only those need the full comparison.
        hits = np.flatnonzero(self._seen[grams >> _SEEN_SHIFT])
        hits = hits[np.isin(grams[hits], self.grams)]
        if not len(hits):
            return none
        touched = np.unique(np.searchsorted(starts, hits, side="right") - 1)
        grams, owner = _different(grams, starts, touched)
        sizes = np.bincount(owner, minlength=len(passages.document))
        at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        hits = self.grams[at] == grams
        at, owner = at[hits], owner[hits]
        counts = self.ends[at] - self.begins[at]
        if not counts.sum():
            return none
        # Each hit is repeated for every validation passage that has the n-gram.
        which = np.repeat(self.begins[at] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(int(counts.sum()))
        pairs, shared = np.unique(np.repeat(owner, counts) * len(self.sizes) + self.owners[which], return_counts=True)
        mine, theirs = np.divmod(pairs, len(self.sizes))
        # A document as a whole is a copy if half of its own n-grams are; copies inside it are found part by part.
        needed = np.where(passages.part[mine] < 0, sizes[mine], np.minimum(sizes[mine], self.sizes[theirs]))
        enough = (shared >= SHARED_SEQUENCES) & (shared >= SHARE * needed)
        return mine[enough], theirs[enough]

    def repeated_words(self, passages: Passages) -> npt.NDArray[np.bool_]:
        """Which words of the validation text stand in passages that `find_copies` takes for copies, bool[`word_count`].

        Where a passage is equal or similar to a validation passage, all words of that; where the two share half of their word 8-grams,
        the words of the shared ones.
        """
        found = np.zeros(len(self.passages.flat), dtype=bool)
        starts = self.passages.starts
        same = self.passages.same(self.strict)
        whole = np.isin(same, passages.same(self.strict)) & (same > 0)
        whole[[other for _, other in _near_pairs(self, passages)]] = True
        for number in np.flatnonzero(whole).tolist():
            found[starts[number] : starts[number + 1]] = True
        own_grams, own_starts = ngrams(self.passages.flat, starts, SEQUENCE)
        grams, gram_starts = ngrams(passages.flat, passages.starts, SEQUENCE)
        mine, theirs = self._overlapping_pairs(passages)
        for number in np.unique(theirs).tolist():
            others = np.concatenate([grams[gram_starts[row] : gram_starts[row + 1]] for row in mine[theirs == number].tolist()])
            hits = np.flatnonzero(np.isin(own_grams[own_starts[number] : own_starts[number + 1]], others))
            _mark(found, starts[number] + hits, SEQUENCE)
        return self._in_parts(found)

    def repeated_runs(self, passages: Passages) -> npt.NDArray[np.bool_]:
        """Which words of the validation text stand in RUN_WORDS words in a row that a passage has too, bool[`word_count`]."""
        found = np.zeros(len(self.passages.flat), dtype=bool)
        grams, gram_starts = ngrams(self.passages.flat, self.passages.starts, RUN_WORDS)
        hits = np.flatnonzero(np.isin(grams, ngrams(passages.flat, passages.starts, RUN_WORDS)[0]))
        owner = np.searchsorted(gram_starts, hits, side="right") - 1
        _mark(found, self.passages.starts[owner] + hits - gram_starts[owner], RUN_WORDS)
        return self._in_parts(found)

    @property
    def word_count(self) -> int:
        """Words of the validation text; those of a document of several passages are not counted again for the document as a whole."""
        return int(np.diff(self.passages.starts)[self.passages.part >= 0].sum())

    def _in_parts(self, found: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Of marks of all words, those in paragraphs and messages. The words of a document as a whole stand directly after its parts."""
        starts, part = self.passages.starts, self.passages.part
        for number in np.flatnonzero(part < 0).tolist():
            begin, end = starts[number], starts[number + 1]
            found[2 * begin - end : begin] |= found[begin:end]
        return found[np.repeat(part >= 0, np.diff(starts))]


def _mark(found: npt.NDArray[np.bool_], begins: Ints, length: int) -> None:
    """Set `length` entries from each of `begins`."""
    for offset in range(length):
        found[begins + offset] = True


def find_copies(index: Index, lines: bytes) -> list[tuple[int, int, bool]]:
    """Find the parts of .jsonl rows that repeat validation text: row, part (-1: the whole row), and whether the texts are equal."""
    passages = Passages.of(map(json.loads, lines.splitlines()))
    same = index.same_as(passages)
    found = np.flatnonzero(same | index.overlapping(passages) | _near(index, passages) | index.containing(passages))
    return [(int(passages.document[n]), int(passages.part[n]), bool(same[n])) for n in found]


def check_leaks(index: Index, lines: bytes) -> tuple[Counter[str], list[int]]:
    """Count the passages of train.jsonl rows that repeat validation text, by kind of similarity; also return the indices of these rows."""
    passages = Passages.of(map(json.loads, lines.splitlines()))
    kinds = {"exact": index.same_as(passages), "ngrams": index.overlapping(passages), "near": _near(index, passages)}
    if index.strict:
        kinds["contained"] = index.containing(passages)
    counts = Counter({"passages": len(passages.document), **{kind: int(found.sum()) for kind, found in kinds.items()}})
    found = np.logical_or.reduce(list(kinds.values()))
    return counts, np.unique(passages.document[found]).tolist()


def _near(index: Index, passages: Passages) -> npt.NDArray[np.bool_]:
    """[n] which passages have a Jaccard similarity of 0.8 with a validation passage: MinHash finds candidates, exact counts decide."""
    found = np.zeros(len(passages.document), dtype=bool)
    found[[number for number, _ in _near_pairs(index, passages)]] = True
    return found


def _near_pairs(index: Index, passages: Passages) -> list[tuple[int, int]]:
    """The passages that `_near` finds, each with a validation passage to which it is similar."""
    ours, our_grams, our_starts = _signed(passages)
    theirs, their_grams, their_starts = index.signed
    candidates: set[tuple[int, int]] = set()
    for band in range(BANDS):
        values = theirs["bands"][:, band]
        order = np.argsort(values, kind="stable")
        begin = np.searchsorted(values[order], ours["bands"][:, band], side="left")
        end = np.searchsorted(values[order], ours["bands"][:, band], side="right")
        for n in np.flatnonzero(begin < end).tolist():
            candidates.update((n, int(other)) for other in order[begin[n] : end[n]])
    found: list[tuple[int, int]] = []
    for n, other in candidates:
        mine, other_grams = our_grams[our_starts[n] : our_starts[n + 1]], their_grams[their_starts[other] : their_starts[other + 1]]
        if _jaccard(mine, other_grams) >= NEAR:
            found.append((int(ours["row"][n]), int(theirs["row"][other])))
    return found


def _signed(passages: Passages) -> _Signed:
    lengths = np.diff(passages.starts)
    rows = np.flatnonzero(lengths >= NEAR_WORDS_NEEDED)
    kept = np.zeros(len(lengths), dtype=bool)
    kept[rows] = True
    starts = np.concatenate([[0], np.cumsum(lengths[rows], dtype=np.int64)])
    grams, gram_starts = ngrams(passages.flat[np.repeat(kept, lengths)], starts, NEAR_SEQUENCE)
    return signatures(rows, minhash(grams, gram_starts)), grams, gram_starts


def _jaccard(one: Hashes, other: Hashes) -> float:
    one, other = np.unique(one), np.unique(other)
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(len(one) + len(other) - shared, 1)


def read_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Read complete lines of an open file, about a megabyte at a time."""
    while lines := file.readlines(BLOCK_BYTES):
        yield b"".join(lines)


def load_index(path: Path, strict: bool = False) -> Index:
    """Build the index of a .jsonl file of documents, such as val.jsonl."""
    return Index([json.loads(line) for line in path.read_bytes().splitlines()], strict)

"""What the training text contains: its words, and the longest passages that an answer has in common with it."""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bulletlm.data.shingles import hash_words, ngrams, words_of
from bulletlm.errors import BulletError
from bulletlm.text.documents import Document, parse_document, texts_of

MOST_BYTES = 32_000_000
"""Of a larger train.jsonl, every n-th document is read. Held-out text is compared with the same part."""

PASSAGE_WORDS = 8
"""Passages of this many words in common with the training text count as copied; shorter ones are common in any language."""

_SEED_WORDS = 4
_LETTER_OR_MARK = re.compile(r"[^\W\d_]")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """What a text has in common with the training text.

    Attributes:
        longest: words of the longest passage that both have; 0 below _SEED_WORDS.
        share: share of the text's words that are inside passages of PASSAGE_WORDS or more.
    """

    longest: int
    share: float


class TrainingText:
    """The words of a training text, as hashes, in their order.

    Args:
        texts: texts of documents and messages.
        complete: whether these are all texts.
    """

    def __init__(self, texts: Sequence[str], complete: bool = True) -> None:
        self.complete = complete
        self._flat, self._starts = hash_words([words_of(text) for text in texts])
        self._known = np.unique(self._flat)

    def unknown(self, words: Sequence[str]) -> npt.NDArray[np.bool_]:
        """bool[n]: which of `words` (as `real_words` gives them) do not occur in the training text."""
        flat, _ = hash_words([words])
        return ~np.isin(flat, self._known)

    def copies(self, texts: Sequence[str]) -> list[Copies]:
        """For each text, what it has in common with the training text; punctuation and upper case make no difference."""
        flat, starts = hash_words([words_of(text) for text in texts])
        ours, own_places = _grams(flat, starts)
        theirs, their_places = _grams(self._flat, self._starts)
        hits = np.flatnonzero(np.isin(theirs, ours))
        lengths = np.zeros(len(flat), dtype=np.int64)  # words of the longest passage that begins at each word
        if len(hits):
            order = np.argsort(ours, kind="stable")
            ordered = ours[order]
            begin, end = (np.searchsorted(ordered, theirs[hits], side) for side in ("left", "right"))
            counts = end - begin
            which = np.repeat(begin - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(int(counts.sum()))
            mine, other = own_places[order[which]], np.repeat(their_places[hits], counts)
            # Pairs on one diagonal at adjacent places are one passage.
            sequence = np.lexsort((mine, other - mine))
            mine, diagonal = mine[sequence], (other - mine)[sequence]
            new = np.ones(len(mine), dtype=bool)
            new[1:] = (diagonal[1:] != diagonal[:-1]) | (mine[1:] != mine[:-1] + 1)
            first = np.flatnonzero(new)
            passage = np.diff(np.append(first, len(mine))) + _SEED_WORDS - 1
            np.maximum.at(lengths, mine[first], passage)
        found = []
        for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            own = lengths[start:stop]
            covered = np.zeros(stop - start, dtype=bool)
            for at in np.flatnonzero(own >= PASSAGE_WORDS).tolist():
                covered[at : at + int(own[at])] = True
            found.append(Copies(int(own.max(initial=0)), float(covered.mean()) if len(covered) else 0.0))
        return found


def _grams(flat: npt.NDArray[np.uint64], starts: Ints) -> tuple[npt.NDArray[np.uint64], Ints]:
    """Hashes of all sequences of _SEED_WORDS words, and the place of the first word of each."""
    grams, gram_starts = ngrams(flat, starts, _SEED_WORDS)
    sizes = np.diff(gram_starts)
    return grams, np.repeat(starts[:-1] - gram_starts[:-1], sizes) + np.arange(len(grams))


def real_words(text: str) -> list[str]:
    """The words of `text` that have a letter, in the form in which they are compared."""
    return [word for word in words_of(unicodedata.normalize("NFC", text)) if _LETTER_OR_MARK.search(word)]


def read_part(path: Path, most_bytes: int = MOST_BYTES) -> tuple[list[Document], bool]:
    """The documents of a train.jsonl or val.jsonl, or every n-th of a file with more than `most_bytes`; and whether these are all.

    Raises:
        BulletError: the file is missing or damaged.
    """
    try:
        step = max(1, -(-path.stat().st_size // most_bytes))
        with open(path, "rb") as file:
            documents = [parse_document(line) for line in itertools.islice(file, 0, None, step)]
    except FileNotFoundError:
        raise BulletError(f"{path} is missing: run `bullet data` first") from None
    except OSError as error:
        raise BulletError(f"cannot read {path} ({error.strerror}): run `bullet data` again") from None
    if None in documents:
        raise BulletError(f"{path} is damaged at line {1 + step * documents.index(None)}: run `bullet data` again")
    return [document for document in documents if document], step == 1


def all_texts(documents: Sequence[Document]) -> list[str]:
    """The texts of all documents and messages."""
    return [text for document in documents for text in texts_of(document)]

"""Quality filters by statistics of words and letters, based on the rules of Gopher (Rae et al. 2021) and FineWeb.

The thresholds are set so that good Marathi and English text passes (docs/data.md has the measurements). Gopher's thresholds would
reject half of the saints' verses because of their numbers and dandas, and every Marathi document because it lacks "the".
Rules about words do not apply to scripts without spaces between words, and rules about common words apply only to their language.
All documents of a batch are measured together, which is many times faster than one by one.
"""

import functools
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bulletlm.data.language import COMMON_WORDS, WORDS_OF_OTHERS
from bulletlm.data.log import Log, Rejected
from bulletlm.data.rules import Clean, writes_no_spaces
from bulletlm.data.shingles import Hashes, hash_words, minhash, ngrams, repeated_share, signatures, words_of

if TYPE_CHECKING:
    from bulletlm.config.schema import CleanConfig

REPEATED_STRETCH = 20
"""In characters; an exclamation such as "Boooooo!" is shorter."""

REPEATED_SEQUENCE = 5
REPEATED_WORDS_NEEDED = 50
NEAR_SEQUENCE = 3
NEAR_WORDS_NEEDED = 20

_ANSWER = 1 << 40
"""Word hashes have 32 bits."""

_LANGUAGES_WITH_COMMON_WORDS = ("mr", "hi", "en")
_COMMON_HASHES = np.sort(np.array([zlib.crc32(word.encode()) for word in COMMON_WORDS | WORDS_OF_OTHERS], dtype=np.uint64))
_OTHER, _LETTER, _DIGIT, _SPACE = range(4)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Batch:
    """Documents and the hashes of their words: a unit is a paragraph, or a conversation as a whole.

    Attributes:
        flat, starts: word hashes of all units, as `hash_words` returns them.
        first: [documents + 1] index of each document's first unit.
    """

    documents: list[Clean]
    flat: Hashes
    starts: Ints
    first: Ints

    @classmethod
    def of(cls, documents: list[Clean]) -> "Batch":
        """Hash the words of all documents; words in answers get other hashes than words in questions.

        Otherwise a translation and its opposite direction would be near duplicates.
        """
        words: list[list[str]] = []
        salts: list[int] = []
        units: list[int] = []
        for document in documents:
            for paragraph in document.paragraphs:
                words.append(words_of(paragraph))
            salts += [0] * len(document.paragraphs)
            units += [1] * len(document.paragraphs)
            for message in document.messages:
                words.append(words_of(message["content"]))
                salts.append(_ANSWER if message["role"] == "assistant" else 0)
            if document.messages:
                units.append(len(document.messages))
        flat, starts = hash_words(words)
        flat ^= np.repeat(np.array(salts, dtype=np.uint64), np.diff(starts))
        unit_starts = starts[np.concatenate([[0], np.cumsum(units, dtype=np.int64)])]
        first = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum([document.rows for document in documents], out=first[1:])
        return cls(documents, flat, unit_starts, first)

    def units(self) -> list[str]:
        """The text of every unit."""
        return [unit for document in self.documents for unit in (document.paragraphs or [document.text])]

    @property
    def document_starts(self) -> Ints:
        """Where the words of each document begin."""
        return self.starts[self.first]

    def without(self, dropped: npt.NDArray[np.bool_]) -> "Batch":
        """The batch without some units; documents that lose all units are left out."""
        kept = ~dropped
        lengths = np.diff(self.starts)
        starts = np.concatenate([[0], np.cumsum(lengths[kept])])
        documents, rows = [], []
        for document, begin, end in zip(self.documents, self.first[:-1], self.first[1:], strict=True):
            mask = kept[begin:end]
            if document.paragraphs and not mask.all():
                document.paragraphs = [paragraph for paragraph, keep in zip(document.paragraphs, mask, strict=True) if keep]
                document.lines = [line for line, keep in zip(document.lines, mask, strict=True) if keep]
            if mask.any():
                documents.append(document)
                rows.append(int(mask.sum()))
        return Batch(documents, self.flat[np.repeat(kept, lengths)], starts, np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]))


def judge(documents: list[Clean], config: "CleanConfig", log: Log) -> Batch:
    """Filter the documents by their signals; rejected text is logged."""
    batch = Batch.of(documents)
    if config.repeated_characters < 1:
        shares = repeated_characters(batch.units())
        batch = _without_units(batch, shares > config.repeated_characters, "repeated_characters", log)
    if config.repeated_words < 1:
        batch = _without_units(batch, _repeats(batch.flat, batch.starts, config.repeated_words), "repeated_words", log)
        whole = _repeats(batch.flat, batch.document_starts, config.repeated_words)
        batch = _without_documents(batch, ["repeated_words" if drop else None for drop in whole], log)
    return _without_documents(batch, quality(batch, config), log)


def _without_units(batch: Batch, dropped: npt.NDArray[np.bool_], reason: str, log: Log) -> Batch:
    if not dropped.any():
        return batch
    for document, begin, end in zip(batch.documents, batch.first[:-1], batch.first[1:], strict=True):
        for unit in np.flatnonzero(dropped[begin:end]).tolist():
            line, text = (document.lines[unit], document.paragraphs[unit]) if document.paragraphs else (document.line, document.text)
            log.reject(Rejected(document.source, line, reason, text))
    return batch.without(dropped)


def _without_documents(batch: Batch, reasons: Sequence[str | None], log: Log) -> Batch:
    if not any(reasons):
        return batch
    for document, reason in zip(batch.documents, reasons, strict=True):
        if reason:
            log.reject(Rejected(document.source, document.line, reason, document.text, document.rows))
    return batch.without(np.repeat([reason is not None for reason in reasons], np.diff(batch.first)))


def _repeats(flat: Hashes, starts: Ints, limit: float) -> npt.NDArray[np.bool_]:
    dropped = np.diff(starts) >= REPEATED_WORDS_NEEDED
    if dropped.any():
        dropped &= repeated_share(*ngrams(flat, starts, REPEATED_SEQUENCE)) >= limit
    return dropped


def repeated_characters(texts: list[str]) -> Floats:
    """[n] share of each text that repeats one, two or three characters six times or more, over at least 20 characters."""
    codes, begins = _codes(texts)
    inside = np.zeros(len(codes), dtype=bool)
    visible = _kinds()[np.minimum(codes, 0xFFFF)] != _SPACE
    for period in (1, 2, 3):
        if len(codes) <= period:
            break
        same = (codes[period:] == codes[:-period]) & visible[period:]
        edges = np.diff(np.concatenate([[False], same, [False]]).astype(np.int8))
        run_begins, run_ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for run in np.flatnonzero(run_ends - run_begins >= max(5 * period, REPEATED_STRETCH - period)).tolist():
            inside[run_begins[run] : run_ends[run] + period] = True
    owner = np.repeat(np.arange(len(texts)), np.diff(begins))[: len(codes)]
    sizes = np.array([max(len(text), 1) for text in texts])
    shares: Floats = np.bincount(owner[inside], minlength=len(texts)) / sizes
    return shares


def quality(batch: Batch, config: "CleanConfig") -> list[str | None]:
    """The rule that rejects each document, or None; short documents and conversations are never rejected."""
    measured = measure(batch)
    common = np.array([document.language in _LANGUAGES_WITH_COMMON_WORDS for document in batch.documents], dtype=bool)
    text = np.array([not document.messages for document in batch.documents], dtype=bool)
    judged = text & (measured["words"] >= config.quality_words)
    long_words = measured["word_length"] > (config.max_word_length or np.inf)
    for number in np.flatnonzero(judged & long_words).tolist():
        long_words[number] = not writes_no_spaces(batch.documents[number].text)
    broken = (
        ("few_letters", measured["letters"] < config.min_letters),
        ("many_digits", measured["digits"] > config.max_digits),
        ("few_letter_words", measured["letter_words"] < config.min_letter_words),
        ("short_words", measured["word_length"] < config.min_word_length),
        ("long_words", long_words),
        ("few_common_words", common & (measured["common_words"] < config.min_common_words)),
    )
    reasons: list[str | None] = [None] * len(batch.documents)
    for rule, breaks in reversed(broken):
        for number in np.flatnonzero(judged & breaks).tolist():
            reasons[number] = rule
    return reasons


def measure(batch: Batch) -> dict[str, Floats]:
    """The signals, [documents] each.

    words: number of words separated by spaces; letters, digits: share of all characters except spaces, with combining marks
    counted as letters; letter_words: share of words with a letter; word_length: mean, in characters;
    common_words: share of the most common function words.
    """
    texts = [document.text for document in batch.documents]
    codes, begins = _codes(texts)
    kinds = _kinds()[np.minimum(codes, 0xFFFF)]
    owner = np.repeat(np.arange(len(texts)), np.diff(begins))[: len(kinds)]
    seen = kinds != _SPACE
    word_begins = seen & np.concatenate([[True], ~seen[:-1]])[: len(seen)]
    word = np.cumsum(word_begins) - 1
    word_owner = owner[word_begins]
    has_letter = np.zeros(len(word_owner), dtype=bool)
    has_letter[word[kinds == _LETTER]] = True

    def count(which: npt.NDArray[np.bool_], owners: Ints) -> Floats:
        return np.bincount(owners[which], minlength=len(texts)).astype(np.float64)

    characters = np.maximum(count(seen, owner), 1)
    words = np.bincount(word_owner, minlength=len(texts)).astype(np.float64)
    starts = batch.document_starts
    is_common = np.isin(batch.flat, _COMMON_HASHES)
    hashed_owner = np.repeat(np.arange(len(texts)), np.diff(starts))
    return {
        "words": words,
        "letters": count(kinds == _LETTER, owner) / characters,
        "digits": count(kinds == _DIGIT, owner) / characters,
        "letter_words": count(has_letter, word_owner) / np.maximum(words, 1),
        "word_length": characters / np.maximum(words, 1),
        "common_words": count(is_common, hashed_owner) / np.maximum(np.diff(starts), 1),
    }


def _codes(texts: list[str]) -> tuple[npt.NDArray[np.uint32], Ints]:
    """The code points of all texts, with a line end after each except the last, and the offset of each text."""
    begins = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) + 1 for text in texts], out=begins[1:])
    return np.frombuffer("\n".join(texts).encode("utf-32-le", "surrogatepass"), "<u4"), begins


@functools.cache
def _kinds() -> npt.NDArray[np.uint8]:
    """The class of each of the first 65,536 characters; characters above count as other."""
    table = np.zeros(0x10000, dtype=np.uint8)
    for code in range(0xFFFF):
        category = unicodedata.category(chr(code))
        if category[0] in "LM":
            table[code] = _LETTER
        elif category == "Nd":
            table[code] = _DIGIT
        elif category[0] == "Z" or chr(code).isspace():
            table[code] = _SPACE
    return table


def sign(batch: Batch) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    """MinHash signatures of documents and conversations of 20 words or more, and of such paragraphs in longer documents.

    `row` is the index of the document in the batch, or of the paragraph among all paragraphs of the batch.
    """
    is_text = np.array([bool(document.paragraphs) for document in batch.documents], dtype=bool)
    units = np.diff(batch.first)
    in_longer = np.repeat(is_text & (units > 1), units)
    paragraph_number = np.cumsum(np.repeat(is_text, units)) - 1
    whole = _sign(batch.flat, batch.document_starts, np.ones(len(batch.documents), dtype=bool))
    parts = _sign(batch.flat, batch.starts, in_longer)
    parts["row"] = paragraph_number[parts["row"]]
    return whole, parts


def _sign(flat: Hashes, starts: Ints, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.void]:
    lengths = np.diff(starts)
    rows = np.flatnonzero(wanted & (lengths >= NEAR_WORDS_NEEDED))
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[rows] = True
    kept_starts = np.concatenate([[0], np.cumsum(lengths[rows], dtype=np.int64)])
    grams, gram_starts = ngrams(flat[np.repeat(chosen, lengths)], kept_starts, NEAR_SEQUENCE)
    return signatures(rows, minhash(grams, gram_starts))

"""Shingles: hashes of word n-grams, used to measure repetition and to find near duplicates and leaks.

Words are runs of letters, combining marks and digits in lower case, so punctuation and spacing make no difference. The
n-grams of a batch of texts are computed together, as flat arrays with the offset at which each text begins.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

PERMUTATIONS = 96
BANDS = 16
"""16 bands of 6 find 99 % of the pairs with a similarity of 0.8, 95 % at 0.75, and few below 0.5; each candidate is then compared."""

_WORD = re.compile("[\\w\u0900-\u0963\u0970-\u097f]+")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.cumprod(np.full(64, 0xBF58476D1CE4E5B9, dtype=np.uint64))
"""Powers of an odd number, one per word of the longest n-gram; with multiples of a number, swapped words could give the same sum."""
_MINHASH_SEED = 1


class _WordHashes(dict[str, int]):
    """A cache of the crc32 of words, ten times as fast as hashing each word again."""

    LIMIT = 1_000_000

    def __missing__(self, word: str) -> int:
        if len(self) > self.LIMIT:
            self.clear()
        value = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return value


_word_hashes = _WordHashes()


def words_of(text: str) -> list[str]:
    """The words of `text` in the form used for comparisons."""
    return _WORD.findall(text.lower())


def hash_words(texts: Iterable[Sequence[str]]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hash of every word of all texts, and [n + 1] where each text begins and the last one ends."""
    texts = list(texts)
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(words) for words in texts], out=starts[1:])
    flat = np.fromiter(map(_word_hashes.__getitem__, chain.from_iterable(texts)), np.uint64, int(starts[-1]))
    return flat, starts


def ngrams(flat: Hashes, starts: npt.NDArray[np.int64], n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hash of every sequence of `n` words inside one text, and where each text begins, as `hash_words` gives words."""
    count = max(len(flat) - n + 1, 0)
    mixed = np.zeros(count, dtype=np.uint64)
    for k in range(n):
        mixed += (flat[k : k + count] + _MIX) * _FACTORS[k]
    mixed ^= mixed >> np.uint64(29)
    mixed *= _FACTORS[0]
    mixed ^= mixed >> np.uint64(32)
    lengths = np.diff(starts)
    sizes = np.maximum(lengths - n + 1, 0)
    inside = np.ones(len(flat), dtype=bool)
    for k in range(1, n):
        ends = starts[1:][lengths >= k] - k
        inside[ends] = False
    result_starts = np.zeros(len(starts), dtype=np.int64)
    np.cumsum(sizes, out=result_starts[1:])
    return mixed[inside[:count]], result_starts


def repeated_share(grams: Hashes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[n] for each text, the share of its n-grams that occur earlier in the same text."""
    texts = len(starts) - 1
    owner = np.repeat(np.arange(texts), np.diff(starts))
    keys = (grams ^ (owner.astype(np.uint64) * _MIX)) * _FACTORS[1]
    ordered = np.sort(keys)
    again = np.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]])  # empty for most texts, so sorting the rest is cheap
    keys, owner = keys[again], owner[again]
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    repeats = np.bincount(owner[order][1:][same], minlength=texts)
    return repeats / np.maximum(np.diff(starts), 1)


def minhash(grams: Hashes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """[n, 96] MinHash signature of each text (rensa)."""
    if len(starts) < 2:
        return np.zeros((0, PERMUTATIONS), dtype=np.uint32)
    from rensa import RMinHash

    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, starts.astype(np.uint64), PERMUTATIONS, _MINHASH_SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


SIGNATURE = np.dtype([("row", "<i8"), ("bands", "<u4", (BANDS,)), ("values", "u1", (PERMUTATIONS,))])
"""A stored signature has 168 bytes. One byte per value is enough for comparisons; two values agree by chance once in 256."""


def signatures(rows: npt.NDArray[np.int64], matrix: npt.NDArray[np.uint32]) -> npt.NDArray[np.void]:
    """Signatures as SIGNATURE records, each with the number of its row."""
    kept = np.zeros(len(rows), dtype=SIGNATURE)
    kept["row"] = rows
    kept["values"] = matrix & 0xFF
    width = PERMUTATIONS // BANDS
    banded = matrix.reshape(len(rows), BANDS, width).astype(np.uint64)
    mixed = np.zeros((len(rows), BANDS), dtype=np.uint64)
    for k in range(width):
        mixed += (banded[:, :, k] + _MIX) * _FACTORS[k]
    mixed ^= mixed >> np.uint64(29)
    kept["bands"] = ((mixed * _FACTORS[0]) >> np.uint64(32)).astype(np.uint32)
    return kept


def similarity(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """[n] estimated Jaccard similarity of the texts of two [n, 96] blocks of signature values; standard error 0.04 at 0.8."""
    agree: npt.NDArray[np.float64] = (one == other).mean(axis=-1)
    return (agree - 1 / 256) / (1 - 1 / 256)

"""Tests hashed word sequences (shingles) against sets of tuples."""

import zlib

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulletlm.data.shingles import hash_words, minhash, ngrams, repeated_share, signatures, similarity, words_of

TEXTS = st.lists(st.lists(st.sampled_from(["एक", "दोन", "तीन", "four", "five"]), max_size=12), max_size=6)


def test_words() -> None:
    assert words_of("“Hello,” त्याने म्हटलं—१२ दु:ख!") == ["hello", "त्याने", "म्हटलं", "१२", "दु", "ख"]


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 5))
@example([["एक", "दोन", "दोन", "एक", "एक", "दोन"]], 4)
def test_ngrams_are_those_inside_each_text(texts: list[list[str]], n: int) -> None:
    flat, starts = hash_words(texts)
    grams, begins = ngrams(flat, starts, n)
    number: dict[tuple[str, ...], int] = {}
    for text, begin, end in zip(texts, begins[:-1], begins[1:], strict=True):
        expected = [tuple(text[k : k + n]) for k in range(len(text) - n + 1)]
        assert len(expected) == end - begin
        for gram, value in zip(expected, grams[begin:end].tolist(), strict=True):
            assert number.setdefault(gram, value) == value
    assert len(set(number.values())) == len(number)
    shares = repeated_share(grams, begins)
    for text, share in zip(texts, shares, strict=True):
        own = [tuple(text[k : k + n]) for k in range(len(text) - n + 1)]
        assert abs(share - (len(own) - len(set(own))) / max(len(own), 1)) < 1e-12


def test_similarity_is_near_the_jaccard_index() -> None:
    rng = np.random.default_rng(3)
    for shared in (0, 60, 120, 180, 200):
        words = [str(n) for n in rng.permutation(100_000)[:400]]
        one, other = words[:200], words[200 - shared : 400 - shared]
        flat, starts = hash_words([one, other])
        signed = signatures(np.arange(2), minhash(*ngrams(flat, starts, 1)))
        estimate = similarity(signed["values"][:1], signed["values"][1:])[0]
        assert abs(estimate - shared / (400 - shared)) < 0.15
        if shared in (0, 180, 200):  # between these values the result depends on the hash functions
            assert (signed["bands"][0] == signed["bands"][1]).any() == (shared > 0)


def test_hashes_do_not_depend_on_the_process() -> None:
    flat, starts = hash_words([["एक", "two"], []])
    assert flat.tolist() == [zlib.crc32(word.encode()) for word in ("एक", "two")]
    assert starts.tolist() == [0, 2, 2]

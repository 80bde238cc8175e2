"""Tests that the tokenizer of a loaded model returns the same ids as sentencepiece."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.errors import DataError, FormatError
from bulletlm.text.bpe import Vocabulary
from bulletlm.text.tokenizer import Tokenizer
from paths import SHARED_DATA
from tiny_model import ENGLISH, MARATHI

REAL = SHARED_DATA / "quick"


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.pieces(), tokenizer.proto)


def test_it_is_the_same_tokenizer(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    assert vocabulary.vocab_size == tokenizer.vocab_size
    assert vocabulary.pieces() == tokenizer.pieces()
    ids = list(range(tokenizer.vocab_size))
    assert vocabulary.decode_bytes(ids) == tokenizer.decode_bytes(ids)
    for text in (MARATHI, ENGLISH, "", " ", "  a", "\u2581", "a \u2581 b", "<s><|user|><0x41>", "\0", "e\u0301 \U0001f600\ufe0f\r\n\t"):
        assert vocabulary.encode(text) == tokenizer.encode(text)


@settings(max_examples=400, deadline=None)
@given(text=st.text() | st.text(alphabet=sorted(set(MARATHI + ENGLISH + "\u2581")), max_size=40))
def test_any_text(tokenizer: Tokenizer, vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert ids == tokenizer.encode(text)
    assert vocabulary.decode(ids) == text


def test_a_vocabulary_whose_pieces_span_words(tokenizer: Tokenizer) -> None:
    """Ours have no such pieces, but a converted file may."""
    pieces = tokenizer.pieces()
    text = MARATHI + ENGLISH
    wide = Vocabulary([*pieces, pieces[-1]._replace(text="e\u2581t", score=1.0)], b"")
    assert wide.encode("the town") == [*wide.encode("th"), len(pieces), *wide.encode("own")]
    narrow = Vocabulary(pieces, b"")
    narrow._by_words = False
    assert narrow.encode(text) == tokenizer.encode(text)


def test_a_long_word_takes_no_longer_than_many_short_ones(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    text = "एकागावातएकशेतकरी" * 3000
    assert vocabulary.encode(text) == tokenizer.encode(text)


def test_errors(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    with pytest.raises(DataError, match="half of a surrogate pair"):
        vocabulary.encode("a\ud800")
    pieces = tokenizer.pieces()
    with pytest.raises(FormatError, match=r"token 4 should be <\|assistant\|>"):
        Vocabulary([*pieces[:4], pieces[5], pieces[4], *pieces[6:]], b"")
    with pytest.raises(FormatError, match="token 100 should be"):
        Vocabulary(pieces[:100], b"")


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason="../shared is absent")
def test_real_text(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    for file in sorted(REAL.glob("*.txt")):
        lines = file.read_text(encoding="utf-8").splitlines()[:300]
        assert vocabulary.encode_batch(lines) == tokenizer.encode_batch(lines)

"""Tests the 5-gram baseline against its definition, written with dictionaries, and against what a language model must fulfil."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.evaluate.ngram import ORDER, NGram, _smoothed, training_documents

TOKENS = st.lists(st.integers(0, 6), min_size=2, max_size=60)


def counts_of(tokens: list[int]) -> list[Counter[tuple[int, ...]]]:
    """Counts for each order: of the longest n-grams, and of the contexts of the shorter ones."""
    grams = [[tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] for n in range(1, ORDER + 1)]
    grams = [found for found in grams if found]
    return [Counter(gram[1:] for gram in set(grams[n + 1])) if n + 1 < len(grams) else Counter(grams[n]) for n in range(len(grams))]


def probability(tokens: list[int], history: tuple[int, ...], token: int, vocabulary: int) -> float:
    """p(token | history) from the formula of interpolated modified Kneser-Ney."""
    p = 1 / vocabulary
    for n, counts in enumerate(counts_of(tokens)):
        if n > len(history):
            break
        context = history[len(history) - n :]
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context and count}
        if not after:
            break
        times = Counter(counts.values())
        discount = [0.0, 0.5, 0.75, 0.75]
        if all(times[k] for k in (1, 2, 3, 4)):
            share = times[1] / (times[1] + 2 * times[2])
            discount = [0.0, *(k - (k + 1) * share * times[k + 1] / times[k] for k in (1, 2, 3))]
        discount = [min(max(d, 0.05), most) if k else 0.0 for k, (d, most) in enumerate(zip(discount, (0, 0.95, 1.9, 2.85), strict=True))]
        total = sum(after.values())
        own = max(after.get(token, 0) - discount[min(after.get(token, 0), 3)], 0)
        p = own / total + sum(discount[min(count, 3)] for count in after.values()) / total * p
    return p


@given(TOKENS, TOKENS, st.integers(1, 9))
def test_equals_the_formula(train: list[int], text: list[int], window: int) -> None:
    nats = NGram(np.array(train), 7).nats(np.array(text), window)
    for i in range(1, len(text)):
        start = (i - 1) // window * window
        history = tuple(text[max(start, i - ORDER + 1) : i])
        assert nats[i - 1] == pytest.approx(-math.log(probability(train, history, text[i], 7)))


@given(TOKENS, st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_probabilities_sum_to_one(train: list[int], history: list[int]) -> None:
    model = NGram(np.array(train), 7)
    assert sum(math.exp(-model.nats(np.array([*history, token]), 100)[-1]) for token in range(7)) == pytest.approx(1)


def test_learns_from_text() -> None:
    """Text with a pattern is predicted well, noise is not."""
    rng = np.random.default_rng(0)
    pattern = np.tile([1, 2, 3, 4, 5], 400)
    noise = rng.integers(0, 7, 2000)
    assert NGram(pattern, 7).nats(pattern[:200], 50).mean() < 0.1
    assert 1.8 < NGram(noise, 7).nats(rng.integers(0, 7, 500), 50).mean() < 2.3


def test_discounts_of_a_large_text() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [400, 150, 80, 50, 30])
    order = _smoothed(np.arange(len(counts)), counts, 1, len(counts))
    share = 400 / 700
    assert order.discounted[0] == pytest.approx(1 - (1 - 2 * share * 150 / 400))
    assert order.discounted[-1] == pytest.approx(9 - (3 - 4 * share * 50 / 80))


def test_repeated_documents_count_once() -> None:
    documents = [[1, 7, 8, 2], [1, 9, 2], [1, 7, 8, 2], [1, 5, 5, 5, 2]]
    stream = np.array([token for document in documents for token in document], dtype="<u2")
    assert training_documents(stream, 1).tolist() == [1, 7, 8, 2, 1, 9, 2, 1, 5, 5, 5, 2]
    assert training_documents(stream, 1, most=8).tolist() == [1, 7, 8, 2]
    assert training_documents(stream, 99, most=8).tolist() == stream[:8].tolist()

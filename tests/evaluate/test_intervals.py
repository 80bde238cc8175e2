"""Tests that 95 % intervals contain the true value in about 95 % of synthetic data sets, and that noise is not taken for a difference."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.evaluate.intervals import (
    BLOCKS,
    FEWEST_DOCUMENTS,
    MOST_UNITS,
    Bootstrap,
    Interval,
    choose_units,
    mean,
    paired_difference,
    proportion,
)

SETS = 400
LOWEST, HIGHEST = 0.91, 0.985
"""With 400 sets, the share of correct 95 % intervals has a standard error of 1.1 %."""


def covered(make: Callable[[np.random.Generator], Interval], truth: float) -> float:
    """Share of synthetic data sets whose interval contains the truth."""
    found = [make(np.random.default_rng([7, n])) for n in range(SETS)]
    return sum(not interval.excludes(truth) for interval in found) / SETS


def documents(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of tokens with mean 3, and the document of each; documents differ in length and in difficulty, which is skewed."""
    lengths = rng.integers(5, 80, count)
    hard = rng.exponential(0.6, count) - 0.6
    document = np.repeat(np.arange(count), lengths)
    return 3 + hard[document] + rng.normal(0, 1, len(document)), document


@pytest.mark.parametrize("count", [24, 120])
def test_documents(count: int) -> None:
    def loss(rng: np.random.Generator) -> Interval:
        losses, document = documents(rng, count)
        return Bootstrap(choose_units(document, document)).mean(losses)

    assert LOWEST <= covered(loss, 3.0) <= HIGHEST


def test_tokens_as_units_would_be_wrong() -> None:
    """The same data with every token as a unit of its own: the intervals are too narrow, which the test above must notice."""

    def loss(rng: np.random.Generator) -> Interval:
        losses, _ = documents(rng, 120)
        each = np.arange(len(losses))
        return Interval(losses.mean(), *(losses.mean() + sign * 1.96 * losses.std() / math.sqrt(len(each)) for sign in (-1, 1)))

    assert covered(loss, 3.0) < 0.8


def test_blocks_of_windows() -> None:
    """One long document whose windows have a common level."""

    def loss(rng: np.random.Generator) -> Interval:
        window = np.repeat(np.arange(300), 32)
        losses = 2 + rng.normal(0, 0.5, 300)[window] + rng.normal(0, 1, len(window))
        units = choose_units(np.zeros(len(window), int), window)
        assert (units.kind, units.count) == ("blocks of windows", BLOCKS)
        return Bootstrap(units).mean(losses)

    assert LOWEST <= covered(loss, 2.0) <= HIGHEST


def test_paired_differences_are_narrow() -> None:
    widths = []

    def change(rng: np.random.Generator) -> Interval:
        losses, document = documents(rng, 60)
        other = losses + 0.01 + rng.normal(0, 0.1, 60)[document] * 0.2
        bootstrap = Bootstrap(choose_units(document, document))
        own, difference = bootstrap.mean(losses), bootstrap.mean(other - losses)
        assert own.low is not None and own.high is not None and difference.low is not None and difference.high is not None
        widths.append((own.high - own.low) / (difference.high - difference.low))
        return difference

    assert LOWEST <= covered(change, 0.01) <= HIGHEST
    assert min(widths) > 4


@pytest.mark.parametrize(("count", "share"), [(40, 0.95), (40, 0.5), (50, 0.02)])
def test_shares(count: int, share: float) -> None:
    """For few answers a share takes few values, so that the coverage varies more than that of a mean."""
    assert covered(lambda rng: proportion(int(rng.binomial(count, share)), count), share) >= 0.9


def test_paired_shares() -> None:
    def change(rng: np.random.Generator) -> Interval:
        first = rng.random(50) < 0.4
        second = np.where(rng.random(50) < 0.2, rng.random(50) < 0.5, first)
        return paired_difference(first, second)

    assert covered(change, 0.02) >= 0.93


def test_extremes() -> None:
    assert proportion(40, 40).high == 1 and proportion(40, 40).low == pytest.approx(0.912, abs=0.001)
    assert proportion(0, 40).low == 0 and (proportion(0, 40).high or 0) > 0.05
    for hits, count in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no share"):
            proportion(hits, count)
    nothing = paired_difference([True] * 50, [True] * 50)
    assert nothing.value == 0 and not nothing.excludes(0)
    assert Bootstrap(choose_units(np.arange(30), np.arange(30))).mean([1.0] * 30) == Interval(1.0, 1.0, 1.0)
    assert mean([1.0, 2.0]) == Interval(1.5) and not mean([1.0, 2.0]).excludes(0)
    assert Interval(0.0, -1.0, 1.0).mapped(math.exp) == Interval(1.0, math.exp(-1), math.e)


@given(st.integers(1, 3 * MOST_UNITS), st.integers(1, 90))
def test_units_are_whole(count: int, windows: int) -> None:
    document, window = np.repeat(np.arange(count), 2), np.arange(2 * count) % windows
    units = choose_units(document, np.sort(window))
    assert np.array_equal(np.unique(units.index), np.arange(units.count))
    assert units.kind == ("documents" if count >= FEWEST_DOCUMENTS else "blocks of windows")
    assert units.count <= MOST_UNITS
    if units.kind == "documents":
        assert np.array_equal(units.index[::2], units.index[1::2])  # no document is divided


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert mean(values, 3) == mean(values, 3) != mean(values, 4)

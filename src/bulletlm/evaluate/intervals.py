"""Confidence intervals: a bootstrap over documents (or blocks of windows), and intervals for shares of few answers.

Tokens of one document are not independent, so the unit that is resampled is the document. With fewer than FEWEST_DOCUMENTS
documents the units are blocks of consecutive windows. Differences between two models are computed for each token first, so they are
paired, and their intervals are much narrower than those of the losses themselves.

    units = choose_units(document, window)                   # one entry per token
    bootstrap = Bootstrap(units)
    bootstrap.ratio(nats, tokens)                            # loss in nats per token
    bootstrap.ratio(nats_b - nats_a, bytes)                  # paired difference in nats per byte
    proportion(37, 40)                                       # a share of 40 answers
    paired_difference(wrong_a, wrong_b)                      # change of a share, the same questions asked of both models
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bulletlm.evaluate.report_types import IntervalValues

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 1_000
FEWEST_DOCUMENTS = 20
MOST_UNITS = 400
"""More units are joined, in their order, because more of them do not make the interval more accurate."""
BLOCKS = 40
FEWEST_UNITS = 5
"""With fewer units there is no interval."""

_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; `low` and `high` are None where there is too little text for one."""

    value: float
    low: float | None = None
    high: float | None = None

    def excludes(self, number: float) -> bool:
        """Whether `number` is outside the interval; False if there is no interval. For a difference and 0: it is no noise."""
        return self.low is not None and self.high is not None and not self.low <= number <= self.high

    def mapped(self, function: Callable[[float], float]) -> "Interval":
        """The interval of an increasing function of the figure, for example exp."""
        ends = (self.low, self.high)
        return Interval(function(self.value), *(None if end is None else function(end) for end in ends))

    def to_dict(self) -> IntervalValues:
        """Plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Units:
    """The unit that each observation belongs to.

    Attributes:
        index: int64[n], from 0 to count - 1.
        count: number of units.
        kind: what a unit is.
    """

    index: npt.NDArray[np.int64]
    count: int
    kind: Literal["documents", "blocks of windows"]


def choose_units(document: npt.NDArray[np.integer[Any]], window: npt.NDArray[np.integer[Any]]) -> Units:
    """Documents where there are at least FEWEST_DOCUMENTS, otherwise up to BLOCKS blocks of consecutive windows.

    Args:
        document: [n] number of the document of each observation.
        window: [n] number of the window of each observation; windows that follow each other in the text have ascending numbers.
    """
    found, index = np.unique(document, return_inverse=True)
    if len(found) >= FEWEST_DOCUMENTS:
        return _joined(index, len(found), MOST_UNITS, "documents")
    found, index = np.unique(window, return_inverse=True)
    return _joined(index, len(found), BLOCKS, "blocks of windows")


def _joined(index: npt.NDArray[np.int64], count: int, most: int, kind: Literal["documents", "blocks of windows"]) -> Units:
    joined = min(count, most)
    return Units(index.astype(np.int64) * joined // max(count, 1), joined, kind)


class Bootstrap:
    """Draws units with replacement, RESAMPLES times; the same draws serve for all figures over the same observations.

    Args:
        units: the unit of each of the n observations.
        seed: of the draws; the same seed gives the same intervals.
    """

    def __init__(self, units: Units, seed: int = 0) -> None:
        self.units = units
        rng = np.random.default_rng([seed, units.count])
        count = units.count
        self._weights: Floats = (
            rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64) if count else np.zeros((0, 0))
        )

    def ratio(self, numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Interval:
        """sum(numerator) / sum(denominator) and its interval (bootstrap-t: the draws are studentized, so skewed text is covered too).

        Args:
            numerator: [n], for example nats of each token, or a paired difference of nats.
            denominator: [n], for example ones or bytes; its sum must not be 0.
        """
        tops = np.bincount(self.units.index, np.asarray(numerator, dtype=np.float64), self.units.count)
        bottoms = np.bincount(self.units.index, np.asarray(denominator, dtype=np.float64), self.units.count)
        total = float(bottoms.sum())
        value = float(tops.sum()) / total
        if self.units.count < FEWEST_UNITS:
            return Interval(value)
        residual = tops - value * bottoms
        error = math.sqrt(float(residual @ residual)) / total
        if error == 0 or not math.isfinite(error):
            return Interval(value, value, value) if error == 0 else Interval(value)
        drawn = self._weights @ np.stack([residual, bottoms, residual**2, residual * bottoms, bottoms**2], axis=1)
        rest, bottom, square, cross, bottom_square = drawn.T
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = rest / bottom
            own = np.sqrt(np.maximum(square - 2 * shift * cross + shift**2 * bottom_square, 0)) / bottom
            studentized = shift / own
        # A draw of equal units has no error of its own, apart from rounding.
        studentized = studentized[np.isfinite(studentized) & (own > 1e-6 * error)]
        if len(studentized) < RESAMPLES / 2:
            return Interval(value)
        low, high = np.quantile(studentized, [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2])
        return Interval(value, value - float(low) * error, value - float(high) * error)

    def mean(self, values: npt.ArrayLike) -> Interval:
        """Mean of `values`, [n], and its interval."""
        given = np.asarray(values, dtype=np.float64)
        return self.ratio(given, np.ones(len(given)))


def mean(values: npt.ArrayLike, seed: int = 0) -> Interval:
    """Mean of independent values, [n] with n >= 1, and its interval: for example a score of each sentence."""
    given = np.asarray(values, dtype=np.float64)
    return Bootstrap(_joined(np.arange(len(given)), len(given), MOST_UNITS, "documents"), seed).mean(given)


def mean_share(values: npt.ArrayLike, seed: int = 0) -> Interval:
    """The same for values from 0 to 1, such as shares: the interval stays between these."""
    found = mean(values, seed)
    return found.mapped(lambda end: min(1.0, max(0.0, end)))


def proportion(hits: int, count: int) -> Interval:
    """hits / count and Wilson's interval, which also holds for no hits and for few answers.

    Raises:
        ValueError: count is not positive, or hits is not between 0 and count.
    """
    if not 0 <= hits <= count or not count:
        raise ValueError(f"{hits} of {count} is no share")
    share, z2 = hits / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike) -> Interval:
    """share(b) - share(a) and its interval, for two answers to each of the same n questions (Bonett and Price 2012).

    Only the questions in which the two differ count. Their counts are raised by 1, so that no difference at all in few questions is
    not taken for certainty.

    Args:
        a, b: bool[n], n >= 1.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    n = len(first)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = _Z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Interval((gained - lost) / n, max(-1.0, up - down - half), min(1.0, up - down + half))

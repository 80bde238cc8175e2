"""Tests the scaling law: the fit recovers known constants, and it predicts runs that were excluded from the fit."""

import numpy as np
import pytest

from bulletlm.shape import ModelShape
from bulletlm.train.scaling import Law, Point, effective_tokens, family, fit, leave_one_out

LAW = Law(E=0.7, A=0.1, a=0.4, B=0.25, b=0.3)
PLACES = [(n, d) for n in (2e5, 4e5, 8e5, 2e6) for d in (2.5e5, 5e5, 1e6, 2e6) if n * d < 2e12]


def points(noise: float) -> list[Point]:
    random = np.random.default_rng(3)
    return [Point(n, d, LAW.loss(n, d) * (1 + noise * random.standard_normal())) for n, d in PLACES]


def test_constants_are_found_again() -> None:
    found = fit(points(0))
    for name in "EAaBb":
        assert getattr(found, name) == pytest.approx(getattr(LAW, name), rel=0.01)


def test_noise_of_the_runs_is_about_the_error_of_the_prediction() -> None:
    noisy = points(0.005)
    error = leave_one_out(noisy)
    assert 0.001 < error.mean < 0.02
    assert error.mean <= error.largest
    assert fit(noisy).loss(4e6, 4e6) == pytest.approx(LAW.loss(4e6, 4e6), rel=0.1)


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="5 runs with 2 sizes and 4 lengths are too few"):
        fit(points(0)[:5])


def test_more_is_never_expected_to_be_worse() -> None:
    """No constant is negative, even if that would fit the data better."""
    odd = [Point(n, d, 2.0 + n / 1e7 - d / 1e7) for n, d in PLACES]
    law = fit(odd)
    assert min(law.E, law.A, law.B) >= 0


def test_repeated_text_is_worth_less() -> None:
    assert effective_tokens(1e6, 2e6) == 1e6
    assert effective_tokens(4e6, 1e6) == pytest.approx(1e6 * (1 + 15.4 * (1 - np.exp(-3 / 15.4))))
    assert 3.6e6 < effective_tokens(4e6, 1e6) < 4e6
    assert effective_tokens(1e9, 1e6) < 17e6


def test_the_family_holds_our_recipes() -> None:
    assert family(128, 2000, 128) == ModelShape(2000, 128, 4, 4, 4, 512, 128)
    assert family(256, 4000, 128) == ModelShape(4000, 256, 8, 4, 4, 1024, 128)
    assert family(320, 4000, 128).head_dim == 64

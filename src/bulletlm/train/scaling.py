"""Scaling law: how the loss of a finished run falls with parameters and tokens, fitted to runs of this repository.

The law is L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, arXiv:2203.15556). `bench/scaling.py` trains the models,
fits the law and writes scaling.json beside this file. `bullet plan` reads it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bulletlm.shape import ModelShape

LAW_FILE = Path(__file__).with_name("scaling.json")
"""The fitted law, written by bench/scaling.py."""

REPEAT_DECAY_EPOCHS = 15.4
"""Number of repetitions after which another epoch is worth 1/e of the first one (Muennighoff et al. 2023, arXiv:2305.16264)."""

_SCALE_N, _SCALE_D = 1e6, 1e6


@dataclass(frozen=True)
class Point:
    """One finished run: number of parameters, number of training tokens, validation loss."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """E + A / (parameters / 1e6)^a + B / (tokens / 1e6)^b, in the unit of the losses that it was fitted to."""

    E: float
    A: float
    a: float
    B: float
    b: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Expected validation loss of a model with `parameters` parameters after a run over `tokens` different tokens."""
        return self.E + self.A * math.pow(parameters / _SCALE_N, -self.a) + self.B * math.pow(tokens / _SCALE_D, -self.b)


def fit(points: Sequence[Point]) -> Law:
    """The law with the smallest sum of squared relative errors.

    For given exponents, non-negative linear least squares gives E, A and B. The exponents are searched on a grid that is
    refined four times. There is no random start, so the same points always give the same law.

    Raises:
        ValueError: there are fewer than six points, or fewer than three sizes or lengths, which cannot determine five constants.
    """
    n, d, losses = (np.array([getattr(p, name) for p in points], float) for name in ("parameters", "tokens", "loss"))
    if len(points) < 6 or len(set(n)) < 3 or len(set(d)) < 3:
        raise ValueError(f"{len(points)} runs with {len(set(n))} sizes and {len(set(d))} lengths are too few to fit five constants")
    log_n, log_d = np.log(n / _SCALE_N), np.log(d / _SCALE_D)

    def solve(a: float, b: float) -> tuple[float, NDArray[np.float64]]:
        columns = np.stack([np.ones_like(losses), np.exp(-a * log_n), np.exp(-b * log_d)], 1) / losses[:, None]
        return _non_negative(columns)

    grid_a = grid_b = np.geomspace(0.02, 2.0, 25)
    for _ in range(5):
        best_a, best_b = min(itertools.product(grid_a, grid_b), key=lambda pair: solve(float(pair[0]), float(pair[1]))[0])
        step = grid_a[1] / grid_a[0]
        grid_a, grid_b = (np.geomspace(best / step, best * step, 13) for best in (best_a, best_b))
    e, a_factor, b_factor = solve(float(best_a), float(best_b))[1]
    return Law(float(e), float(a_factor), float(best_a), float(b_factor), float(best_b))


def _non_negative(columns: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Minimum of |columns x - 1|^2 over x >= 0 and its x float64[3]; tries every choice of the unknowns that are zero."""
    target = np.ones(len(columns))
    best: tuple[float, NDArray[np.float64]] = (math.inf, np.zeros(3))
    for kept in ([0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2]):
        x, *_ = np.linalg.lstsq(columns[:, kept], target, rcond=None)
        if (x < 0).any():
            continue
        error = float(((columns[:, kept] @ x - target) ** 2).sum())
        if error < best[0]:
            best = (error, np.zeros(3))
            best[1][kept] = x
        if len(kept) == 3:  # the bound does not matter
            break
    return best


@dataclass(frozen=True)
class FitError:
    """Error of the law for runs that it was not fitted to.

    Attributes:
        mean, largest: relative error of the loss of the run that was left out.
        largest_run: relative error for the run with the most arithmetic, which is closest to an extrapolation.
        constants: jackknife standard error of E, A, a, B, b.
    """

    mean: float
    largest: float
    largest_run: float
    constants: dict[str, float]


def leave_one_out(points: Sequence[Point]) -> FitError:
    """For every run: fit to all others and predict it."""
    laws = [fit([*points[:i], *points[i + 1 :]]) for i in range(len(points))]
    errors = [abs(law.loss(p.parameters, p.tokens) / p.loss - 1) for law, p in zip(laws, points, strict=True)]
    biggest = max(range(len(points)), key=lambda i: points[i].parameters * points[i].tokens)
    n = len(points)
    spread = {name: math.sqrt(n - 1) * float(np.std([getattr(law, name) for law in laws])) for name in "EAaBb"}
    return FitError(sum(errors) / n, max(errors), errors[biggest], spread)


def effective_tokens(seen: float, available: float) -> float:
    """Number of different tokens that are worth as much as `seen` tokens of which `available` differ (arXiv:2305.16264, equation 5)."""
    repeats = max(0.0, seen / available - 1)
    return min(seen, available) * (1 + (REPEAT_DECAY_EPOCHS * (1 - math.exp(-repeats / REPEAT_DECAY_EPOCHS)) if repeats else 0.0))


def family(dim: int, vocab_size: int, max_seq_len: int) -> ModelShape:
    """The shape of width `dim` in the fitted runs and in plans. Depth grows with width: 128 x 4 layers, 256 x 8 layers."""
    heads = dim // 64 if dim >= 256 else dim // 32
    return ModelShape(
        vocab_size=vocab_size,
        dim=dim,
        n_layers=max(2, dim // 32),
        n_heads=heads,
        n_kv_heads=heads,
        hidden_dim=4 * dim,
        max_seq_len=max_seq_len,
    )

"""Rounds one weight matrix to BQ4 so that its *outputs* change least, given statistics of its inputs.

A matrix W (outputs, inputs) is judged by the error of its outputs over calibration inputs x:

    E |W x - V x|^2 = trace((W - V) H (W - V)^T),   H = E[x x^T], float[n, n]

Rows do not influence each other, so everything here works on all rows at once, column by column. The method is
GPTQ (Frantar et al. 2023, arXiv:2210.17323) on a symmetric grid of 16 codes, with searched scales, followed by
alternating refinement: scales by least squares, codes by coordinate descent.

R = rows (outputs), n = columns (inputs), 32 columns are a block with one scale. `codes` are the numbers -8 ... 7, stored as
floats; the weights are codes * scale. All functions compute in the type of `weights`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.quant.bq4 import Quantized, pack_bq4
from bulletlm.shape import BLOCK

Array = npt.NDArray[Any]

DAMPING = 0.1
"""Added to the diagonal of H, as a share of its mean, against overfitting to the calibration text.

The usual 0.01 gives 2 to 4 % more KL on held-out text; 0.03 to 1 are alike (bench/quantization.py --damping).
"""

DIVISORS = np.arange(25, 49) / 5
"""Scales tried in a block: its largest weight over 5.0, 5.2 ... 9.6, with both signs."""

REFINEMENTS = 2
"""Rounds of refinement (scales by least squares, codes by coordinate descent); a third round improves nothing."""

JOINT_ROUNDS = 4
"""Rounds of `joint_descent` after that."""


def search(weights: Array, importance: Array) -> Quantized:
    """Round every weight to the nearest code, with the scale of each block that has the smallest error.

    Args:
        weights: float[R, n].
        importance: float[n], the mean square of each input: what an error in that column costs.
    """
    scales = np.stack([best_scales(weights[:, at].T, importance[at]) for at in _blocks(weights)], axis=1)
    return pack(round_to_codes(weights, _per_column(scales)), scales)


def calibrated(weights: Array, hessian: Array, curvature: Array | None = None) -> Quantized:
    """The full method: `gptq`, then two refinements of scales and codes, then the codes of all rows together.

    Args:
        weights: float[R, n].
        hessian: H = E[x x^T], float[n, n].
        curvature: M, float[R, R] with a mean diagonal of 1: the weights of the output errors (`curvature.py`); None for equal weights.
    """
    hessian = damped(hessian).astype(weights.dtype)
    codes, scales = gptq(weights, hessian)
    for _ in range(REFINEMENTS):
        scales = refit_scales(weights, codes, scales, hessian)
        codes = coordinate_descent(weights, codes, scales, hessian)
    if curvature is not None:
        together = damped(curvature).astype(weights.dtype)
        for _ in range(JOINT_ROUNDS):
            codes = joint_descent(weights, codes, scales, hessian, together)
    return pack(codes, scales)


def damped(hessian: Array) -> Array:
    """H with DAMPING times its mean diagonal added to the diagonal; the identity if all inputs are zero."""
    mean = float(np.trace(hessian)) / len(hessian)
    if mean == 0:
        return np.eye(len(hessian), dtype=hessian.dtype)
    return hessian + DAMPING * mean * np.eye(len(hessian), dtype=hessian.dtype)


def corrected(weights: Array, hessian: Array, cross: Array) -> Array:
    """Return the weights whose outputs are nearest to the targets y, for inputs x that differ from those in FP32.

    The best V for E |y - V x|^2 is E[y x^T] H^-1; damping pulls it towards `weights`.

    Args:
        weights: float[R, n].
        hessian: H = E[x x^T], float64[n, n].
        cross: E[y x^T], float64[R, n].
    """
    missing = cross - weights.astype(np.float64) @ hessian
    change = np.linalg.solve(damped(hessian), missing.T).T
    target: Array = weights + change.astype(weights.dtype)
    return target


def gptq(weights: Array, hessian: Array) -> tuple[Array, Array]:
    """Round one column after another; later columns compensate the errors of earlier ones.

    Args:
        weights: float[R, n].
        hessian: float[n, n], positive definite (`damped`).

    Returns:
        Codes [R, n] and scales [R, n // 32]; scales are float16 numbers in the type of `weights`.
    """
    # Row j of U says how an error in column j spreads over the columns after it: H^-1 = U^T U, U upper triangular.
    upper = np.linalg.cholesky(np.linalg.inv(hessian.astype(np.float64))).T.astype(weights.dtype)
    importance = np.diag(hessian)
    rest = weights.T.copy()  # [n, R]: a column of the matrix is contiguous
    codes = np.empty_like(rest)
    scales = np.empty((weights.shape[1] // BLOCK, weights.shape[0]), weights.dtype)
    errors = np.empty((BLOCK, weights.shape[0]), weights.dtype)
    for number, at in enumerate(_blocks(weights)):
        block, spread = rest[at], upper[at, at]
        scales[number] = best_scales(block, importance[at])
        for j in range(BLOCK):
            codes[at][j] = round_to_codes(block[j], scales[number])
            errors[j] = (block[j] - codes[at][j] * scales[number]) / spread[j, j]
            block[j + 1 :] -= spread[j, j + 1 :, None] * errors[j]
        rest[at.stop :] -= upper[at, at.stop :].T @ errors
    return codes.T, scales.T


def coordinate_descent(weights: Array, codes: Array, scales: Array, hessian: Array) -> Array:
    """Visit every column once and take the code that is best given all others; the error never increases.

    Args:
        weights: float[R, n]. codes: float[R, n]. scales: float[R, n // 32]. hessian: float[n, n].

    Returns:
        New codes [R, n].
    """
    codes = codes.T.copy()
    gradient = hessian @ (weights - (codes.T * _per_column(scales))).T  # [n, R]: H (w - v)
    for number, at in enumerate(_blocks(weights)):
        scale = scales[:, number]
        slope, local = gradient[at], hessian[at, at]
        moved = np.empty_like(slope)
        for j in range(BLOCK):
            old = codes[at][j] * scale
            codes[at][j] = round_to_codes(old + slope[j] / local[j, j], scale)
            moved[j] = codes[at][j] * scale - old
            slope[j + 1 :] -= local[j + 1 :, j, None] * moved[j]
        gradient[at.stop :] -= hessian[at.stop :, at] @ moved
    return codes.T


def refit_scales(weights: Array, codes: Array, scales: Array, hessian: Array) -> Array:
    """The scales [R, b] that are best for the given codes, all blocks of a row at once; a row keeps its old ones if they are better.

    With B the n x b matrix that multiplies scales by codes, the best are (B^T H B)^-1 B^T H w.
    """
    out = scales.copy()
    for at in range(0, len(weights), _ROWS_AT_ONCE):
        rows = slice(at, at + _ROWS_AT_ONCE)
        out[rows] = _refit_rows(weights[rows], codes[rows], scales[rows], hessian)
    return out


_ROWS_AT_ONCE = 256
"""Bounds the memory of `refit_scales`: rows x (columns + blocks^2)."""


def _refit_rows(weights: Array, codes: Array, scales: Array, hessian: Array) -> Array:
    rows, blocks = scales.shape
    normal = np.empty((rows, blocks, blocks))
    for number, at in enumerate(_blocks(weights)):
        seen = (codes[:, at] @ hessian[at]) * codes
        normal[:, number] = seen.reshape(rows, blocks, BLOCK).sum(axis=2)
    right = ((weights @ hessian) * codes).reshape(rows, blocks, BLOCK).sum(axis=2, dtype=np.float64)
    # A block of zeros has a zero row in the linear system. Every scale has the same error, so it gets 0.
    empty = normal[:, range(blocks), range(blocks)] <= 0
    normal[:, range(blocks), range(blocks)] += empty
    new = _to_float16(np.linalg.solve(normal, right[..., None])[..., 0].astype(weights.dtype))

    def errors(candidate: Array) -> Array:
        difference = weights - codes * _per_column(candidate)
        result: Array = np.einsum("ij,ij->i", difference @ hessian, difference)
        return result

    better = errors(new) < errors(scales)
    return np.where(better[:, None], new, scales)


def joint_descent(weights: Array, codes: Array, scales: Array, hessian: Array, curvature: Array) -> Array:
    """Coordinate descent on trace(M E H E^T), E = weights - codes * scales: so that an error in one row can compensate one in another.

    Column after column, all rows move to their best code at once. Rows influence each other. So if the moves together reduce the loss by
    less than half of the predicted reduction, only the better half of them is made, and so on.

    Args:
        weights: float[R, n].
        codes: [R, n] to start from; not changed.
        scales: [R, n // 32].
        hessian: float[n, n].
        curvature: M, float[R, R], positive definite (`damped`).

    Returns:
        Codes [R, n] with at most the loss of those given.
    """
    width, codes = _per_column(scales), codes.copy()
    weighted = curvature @ (weights - codes * width)  # M E
    own = np.diag(curvature)
    for j, spread in enumerate(hessian):
        pull = weighted @ spread
        # The best value of row i in this column if only this row could change.
        best = round_to_codes(codes[:, j] * width[:, j] + pull / (own * spread[j]), width[:, j])
        moves = (best - codes[:, j]) * width[:, j]
        gains = (2 * pull - own * spread[j] * moves) * moves
        rows = np.flatnonzero(gains > 0)
        rows = rows[np.argsort(-gains[rows], kind="stable")]
        while len(rows):
            move = moves[rows]
            together = 2 * pull[rows] @ move - spread[j] * (move @ curvature[np.ix_(rows, rows)] @ move)
            if together >= gains[rows].sum() / 2:
                codes[rows, j] = best[rows]
                weighted[:, j] -= curvature[:, rows] @ move
                break
            rows = rows[: len(rows) // 2]
    return codes


def best_scales(block: Array, importance: Array) -> Array:
    """The scale of each row's block, weighted least squares over what rounding would do with it.

    Candidates are ggml's own (largest / -8) and, for every divisor and sign, the least-squares scale of the codes
    that it leads to. Each is evaluated as float16 with the codes that belong to it.

    Args:
        block: float[32, R], one block of every row, columns first.
        importance: float[32].

    Returns:
        float[R], values that float16 holds exactly.
    """
    largest = np.take_along_axis(block, np.abs(block).argmax(axis=0)[None], axis=0)[0]
    importance = importance / importance.max() if importance.max() > 0 else np.ones_like(importance)

    def loss(scale: Array) -> Array:
        difference = block - round_to_codes(block, scale) * scale
        result: Array = importance @ (difference * difference)
        return result

    best = _to_float16(largest / -8)
    least = loss(best)
    for divisor in (*DIVISORS, *-DIVISORS):
        codes = round_to_codes(block, largest / block.dtype.type(divisor))
        weight = importance @ (codes * codes)
        fitted = _to_float16((importance @ (codes * block)) / np.where(weight > 0, weight, 1))
        lost = loss(fitted)
        better = lost < least
        best[better], least[better] = fitted[better], lost[better]
    return best


def round_to_codes(weights: Array, scales: Array) -> Array:
    """The nearest of -8 ... 7 times the scale (0 where that is 0); the shapes broadcast."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / scales
    inverse[~np.isfinite(inverse)] = 0
    codes: Array = weights * inverse
    np.rint(codes, out=codes)
    return np.clip(codes, -8, 7, out=codes)


def pack(codes: Array, scales: Array) -> Quantized:
    """Codes [R, n] and scales [R, n // 32] as BQ4 blocks."""
    return Quantized("BQ4", pack_bq4((codes + 8).astype(np.uint8), scales.astype(np.float16)))


def _blocks(weights: Array) -> list[slice]:
    return [slice(at, at + BLOCK) for at in range(0, weights.shape[1], BLOCK)]


def _per_column(scales: Array) -> Array:
    """[R, b] -> [R, b * 32]."""
    return np.repeat(scales, BLOCK, axis=1)


def _to_float16(scales: Array) -> Array:
    """Rounded to what float16 holds, in their own type."""
    limit = float(np.finfo(np.float16).max)
    return np.clip(scales, -limit, limit).astype(np.float16).astype(scales.dtype)

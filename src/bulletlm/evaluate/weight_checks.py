"""Compares the weights of a model file with the FP32 weights: scaled tensors, exchanged rows, rows that belong to other weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bulletlm.quant.bq4 import dequantize_bq4, dequantize_bq8, quantize_bq4, quantize_bq8

FAR = 0.5
"""A row may be far from FP32 if its error is more than this share of its norm. Four bits give 0.06 to 0.2, exchanged rows about 1.4.

Calibration compares outputs and not weights, so it can move a row of small weights that far. Such a row is still more like its own
FP32 row than like any other row, and better than zero. QAT trains the weights: in neurons that hardly do anything, weights may end
anywhere. So after QAT only a row that has become another row is far, and the loss and KL show other damage.
"""

_SCALE_CHANGE = 0.2
_SHAPE_KEPT = 0.35
_SAME_ERROR = 1e-3
_ROWS_SHOWN = 20
_BLOCK = 32
_BLOCKS_LOOKED_AT = 2_048
_ROUNDINGS = {"BQ4": (quantize_bq4, dequantize_bq4), "BQ8": (quantize_bq8, dequantize_bq8)}


@dataclass(frozen=True)
class WeightCheck:
    """How a stored tensor differs from the FP32 one.

    Attributes:
        relative_rmse: root mean square of the difference / root mean square of FP32.
        levels: mean number of different stored values among 32 adjacent weights; None for vectors. 4 bits give about 12.5, 3 bits 7.3,
            2 bits 3.8, so this also recognizes coarse rounding of weights that QAT has moved. If weight decay has set most weights of
            the blocks to nearly zero, they all become 0 beside the others, and 4 bits give fewer values too.
        plain_levels, plain_rmse: what plain rounding of the FP32 weights to the type gives, on a part of a large matrix; None for vectors,
            matrices of other types, and where no weight is left. A matrix of weights below the smallest scale has a plain_rmse of 1.
        scale: factor of all weights if the tensor is a multiple of the FP32 one, except for rounding; None if it is not.
        rows: number of rows; 1 for vectors.
        far_rows: how many rows are far from FP32.
        first_far: numbers of the first of them.
        exchanged: pairs of rows that have each other's weights.
    """

    relative_rmse: float
    levels: float | None
    plain_levels: float | None
    plain_rmse: float | None
    scale: float | None
    rows: int
    far_rows: int
    first_far: list[int]
    exchanged: list[list[int]]


def check_weights(
    exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32], *, type: str = "BQ4", trained: bool = False
) -> WeightCheck:
    """Compare a stored tensor with the FP32 tensor, both float[rows, columns] or float[n].

    Args:
        exact, stored: the weights.
        type: how the tensor is stored.
        trained: whether the weights were moved on purpose, as by QAT.
    """
    a, b = (np.atleast_2d(tensor).astype(np.float64) for tensor in (exact, stored))
    norm, error = float(np.linalg.norm(a)), float(np.linalg.norm(b - a))
    relative = error / norm if norm else error
    slope = float((a * b).sum()) / norm**2 if norm else 1.0
    rest = float(np.linalg.norm(b - slope * a)) / (abs(slope) * norm) if norm and slope else 0.0
    scale = slope if abs(slope - 1) > _SCALE_CHANGE and rest < _SHAPE_KEPT else None
    far: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)
    if np.ndim(exact) > 1:
        norms, errors = np.linalg.norm(a, axis=1), np.linalg.norm(b - a, axis=1)
        least = np.maximum(norms, 1e-12 + 1e-3 * norms.max(initial=0.0))
        far = np.flatnonzero(errors > FAR * least)
        if trained:
            far = far[[_is_another(a, norms, b[row], row) for row in far.tolist()]]
        else:
            far = far[[bool(errors[row] > least[row]) or _is_nearer_to_another(a, b[row], row, float(errors[row])) for row in far.tolist()]]
    shown = far[:_ROWS_SHOWN].tolist()
    exchanged = _exchanged(a, b, shown) if len(far) <= _ROWS_SHOWN else []
    levels = plain_levels = plain_rmse = None
    if np.ndim(exact) > 1 and not a.shape[1] % _BLOCK:
        levels = _levels(_some_blocks(b))
        plain_levels, plain_rmse = _plain_rounding(_some_blocks(a), type)
    return WeightCheck(relative, levels, plain_levels, plain_rmse, scale, len(a), len(far), shown, exchanged)


def is_as_built(error: float, built: float | None) -> bool:
    """Whether the relative_rmse of a tensor is the one that the build stage found, so that the file was not changed afterwards."""
    return built is not None and math.isclose(error, built, rel_tol=_SAME_ERROR)


def _some_blocks(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    blocks = weights.reshape(-1, _BLOCK)
    return blocks[:: max(1, len(blocks) // _BLOCKS_LOOKED_AT)]


def _plain_rounding(blocks: npt.NDArray[np.float64], type: str) -> tuple[float | None, float | None]:
    """Levels and relative error of blocks that are rounded to nearest; None where there is nothing to round."""
    norm = float(np.linalg.norm(blocks))
    if type not in _ROUNDINGS or not norm:
        return None, None
    quantize, dequantize = _ROUNDINGS[type]
    rounded = dequantize(quantize(blocks.astype(np.float32))).astype(np.float64)
    return _levels(rounded), float(np.linalg.norm(rounded - blocks)) / norm


def _levels(blocks: npt.NDArray[np.float64]) -> float | None:
    blocks = blocks[blocks.any(axis=1)]
    return float((np.diff(np.sort(blocks, axis=1), axis=1) != 0).sum(axis=1).mean() + 1) if len(blocks) else None


def _is_nearer_to_another(exact: npt.NDArray[np.float64], stored: npt.NDArray[np.float64], row: int, error: float) -> bool:
    distances = np.linalg.norm(exact - stored, axis=1)
    distances[row] = np.inf
    return bool(distances.min(initial=np.inf) < error)


def _is_another(exact: npt.NDArray[np.float64], norms: npt.NDArray[np.float64], stored: npt.NDArray[np.float64], row: int) -> bool:
    distances = np.linalg.norm(exact - stored, axis=1)
    distances[row] = np.inf
    return bool((distances < FAR * norms).any())


def _exchanged(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], rows: Sequence[int]) -> list[list[int]]:
    def equal(stored: int, exact: int) -> bool:
        return float(np.linalg.norm(b[stored] - a[exact])) < FAR * float(np.linalg.norm(a[exact]))

    return [[i, j] for n, i in enumerate(rows) for j in rows[n + 1 :] if equal(i, j) and equal(j, i)]

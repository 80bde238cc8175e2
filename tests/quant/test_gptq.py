"""Tests GPTQ on single matrices: against the textbook algorithm, and the documented property of every step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.quant import gptq
from bulletlm.quant.bq4 import dequantize_bq4, quantize_bq4, unpack_bq4


def problem(seed: int, rows: int = 6, columns: int = 96, inputs: int = 400, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and H of inputs that depend on each other as hidden states do."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((inputs, columns)) @ (np.eye(columns) + 0.4 * random.standard_normal((columns, columns)) / columns**0.5 * 3)
    x *= random.lognormal(0, 0.5, columns)
    return random.standard_normal((rows, columns)).astype(dtype), (x.T @ x / inputs).astype(dtype)


def error(weights: np.ndarray, rounded: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Of each row, float64[R]."""
    difference = weights.astype(np.float64) - rounded
    return np.einsum("ij,jk,ik->i", difference, hessian.astype(np.float64), difference)


def nearest(weight: float, scale: float) -> float:
    """float16 scales of 0 never win unless the block is all zeros."""
    return float(np.clip(np.rint(weight / scale), -8, 7)) if scale else 0.0


def textbook(row: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GPTQ as in the paper (algorithm OBQ with a fixed order): H^-1 is shrunk by one row and column after every weight."""
    w, inverse = row.copy(), np.linalg.inv(hessian)
    codes, scales = np.zeros(len(w)), np.zeros(len(w) // 32)
    for j in range(len(w)):
        if j % 32 == 0:
            scales[j // 32] = scale_by_trying(w[j : j + 32], np.diag(hessian)[j : j + 32])
        codes[j] = nearest(w[j], scales[j // 32])
        w -= (w[j] - codes[j] * scales[j // 32]) / inverse[j, j] * inverse[:, j]
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes, scales


def scale_by_trying(block: np.ndarray, importance: np.ndarray) -> float:
    largest = block[np.abs(block).argmax()]
    candidates = [np.float16(largest / -8)]
    for tenths in range(50, 98, 2):
        for sign in (1, -1):
            q = np.array([nearest(w, sign * largest / (tenths / 10)) for w in block])
            candidates.append(np.float16((importance * q * block).sum() / (importance * q * q).sum()))
    losses = [sum(i * (w - float(d) * nearest(w, float(d))) ** 2 for i, w in zip(importance, block, strict=True)) for d in candidates]
    return float(candidates[int(np.argmin(losses))])


@pytest.mark.parametrize("seed", range(3))
def test_gptq_is_the_textbook_algorithm(seed: int) -> None:
    weights, hessian = problem(seed, rows=3)
    hessian = gptq.damped(hessian)
    codes, scales = gptq.gptq(weights, hessian)
    for row, got_steps, got_scales in zip(weights, codes, scales, strict=True):
        wanted_steps, wanted_scales = textbook(row, hessian)
        np.testing.assert_array_equal(got_scales, wanted_scales)
        np.testing.assert_array_equal(got_steps, wanted_steps)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_part_of_the_method_increases_the_error(seed: int) -> None:
    weights, hessian = problem(seed)
    hessian = gptq.damped(hessian)
    rtn = error(weights, dequantize_bq4(quantize_bq4(weights)), hessian)
    codes, scales = gptq.gptq(weights, hessian)
    before = error(weights, codes * np.repeat(scales, 32, axis=1), hessian)
    assert before.sum() < 0.8 * rtn.sum()
    for _ in range(3):
        scales = gptq.refit_scales(weights, codes, scales, hessian)
        refitted = error(weights, codes * np.repeat(scales, 32, axis=1), hessian)
        assert (refitted <= before * (1 + 1e-9)).all()
        codes = gptq.coordinate_descent(weights, codes, scales, hessian)
        before = error(weights, codes * np.repeat(scales, 32, axis=1), hessian)
        assert (before <= refitted * (1 + 1e-9)).all()
        assert np.isin(codes, np.arange(-8, 8)).all()
        np.testing.assert_array_equal(scales, scales.astype(np.float16))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_the_result_is_on_the_grid_and_beats_rounding(seed: int, dtype: type) -> None:
    weights, hessian = problem(seed, dtype=dtype)
    chosen = gptq.calibrated(weights, hessian)
    assert chosen.type == "BQ4" and chosen.shape == weights.shape
    nibbles, scales = unpack_bq4(chosen.blocks)
    by_hand = (nibbles.astype(np.float32).reshape(6, 3, 32) - 8) * scales.astype(np.float32)[..., None]
    np.testing.assert_array_equal(chosen.dequantize(), by_hand.reshape(6, 96))
    rtn = error(weights, dequantize_bq4(quantize_bq4(weights)), hessian)
    assert error(weights, chosen.dequantize(), hessian).sum() < 0.75 * rtn.sum()


def test_coordinate_descent_takes_the_best_code_of_each_column() -> None:
    weights, hessian = problem(1, rows=2, columns=32)
    scales = gptq.best_scales(weights.T, np.diag(hessian))[:, None]
    start = gptq.round_to_codes(weights, scales)
    by_trying = start.copy()
    for row, w, d in zip(by_trying, weights, scales[:, 0], strict=True):
        for j in range(32):
            tried = np.tile(row, (16, 1))
            tried[:, j] = np.arange(-8, 8)
            row[j] = np.argmin(error(np.tile(w, (16, 1)), tried * d, hessian)) - 8
    np.testing.assert_array_equal(gptq.coordinate_descent(weights, start, scales, hessian), by_trying)


def test_refitted_scales_are_the_least_squares_ones() -> None:
    weights, hessian = problem(2)
    scales = np.stack([gptq.best_scales(weights[:, at : at + 32].T, np.ones(32)) for at in (0, 32, 64)], axis=1)
    codes = gptq.round_to_codes(weights, np.repeat(scales, 32, axis=1))
    root = np.linalg.cholesky(hessian).T
    for row, q, got in zip(weights, codes, gptq.refit_scales(weights, codes, scales, hessian), strict=True):
        design = np.zeros((96, 3))
        for block in range(3):
            design[32 * block : 32 * block + 32, block] = q[32 * block : 32 * block + 32]
        wanted = np.linalg.lstsq(root @ design, root @ row, rcond=None)[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_searched_scales_never_lose_to_ggml(seed: int, heavy: bool) -> None:
    random = np.random.default_rng(seed)
    weights = random.standard_t(3, (5, 64)) if heavy else random.standard_normal((5, 64))
    importance = random.lognormal(0, 1, 64)
    chosen, rtn = gptq.search(weights, importance).dequantize(), dequantize_bq4(quantize_bq4(weights))
    assert (((weights - chosen) ** 2) @ importance <= ((weights - rtn) ** 2) @ importance * (1 + 1e-4)).all()


def test_a_matrix_of_zeros_stays_zero() -> None:
    _, hessian = problem(4, columns=64)
    zeros = np.zeros((3, 64), np.float32)
    assert not gptq.calibrated(zeros, hessian).dequantize().any()
    assert not gptq.search(zeros, np.diag(hessian)).dequantize().any()


def test_inputs_that_never_come_do_no_harm() -> None:
    weights, hessian = problem(5, dtype=np.float32)
    hessian[:, 40:64] = hessian[40:64] = 0
    assert np.isfinite(gptq.calibrated(weights, hessian).dequantize()).all()
    nothing = np.zeros_like(hessian)
    rounded = gptq.calibrated(weights, nothing).dequantize()
    assert np.abs(rounded - weights).max() < np.abs(weights).max() / 5


def test_the_target_is_what_fits_the_wanted_outputs_best() -> None:
    random = np.random.default_rng(6)
    weights = random.standard_normal((4, 32))
    exact = random.standard_normal((5000, 32))
    x = exact @ (np.eye(32) + 0.2 * random.standard_normal((32, 32)) / 32**0.5) + 0.05 * random.standard_normal((5000, 32))
    y = exact @ weights.T
    hessian, cross = x.T @ x / 5000, y.T @ x / 5000
    target = gptq.corrected(weights, hessian, cross)
    assert np.mean((y - x @ target.T) ** 2) < 0.1 * np.mean((y - x @ weights.T) ** 2)
    np.testing.assert_allclose(gptq.corrected(weights, hessian, weights @ hessian), weights, atol=1e-12)


def loss(weights: np.ndarray, rounded: np.ndarray, hessian: np.ndarray, curvature: np.ndarray) -> float:
    difference = weights - rounded
    return float(np.trace(curvature @ difference @ hessian @ difference.T))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rows_together_lose_less_than_alone(seed: int) -> None:
    weights, hessian = problem(seed, rows=24)
    hessian = gptq.damped(hessian)
    mixing = np.random.default_rng(seed).standard_normal((24, 12))
    curvature = gptq.damped(mixing @ mixing.T)
    codes, scales = gptq.gptq(weights, hessian)
    codes = gptq.coordinate_descent(weights, codes, scales, hessian)
    width = np.repeat(scales, 32, axis=1)
    alone = together = loss(weights, codes * width, hessian, curvature)
    for _ in range(2):
        codes = gptq.joint_descent(weights, codes, scales, hessian, curvature)
        now = loss(weights, codes * width, hessian, curvature)
        assert now <= together * (1 + 1e-9)
        together = now
        assert np.isin(codes, np.arange(-8, 8)).all()
    assert together < 0.9 * alone


def test_rows_that_do_not_influence_each_other_move_as_alone() -> None:
    weights, hessian = problem(8)
    codes, scales = gptq.gptq(weights, gptq.damped(hessian))
    alone = gptq.coordinate_descent(weights, codes, scales, hessian)
    np.testing.assert_array_equal(gptq.joint_descent(weights, codes, scales, hessian, np.eye(6)), alone)

"""Tests the 4-bit and 8-bit grids against ggml's own package and against their documented properties."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bulletlm.errors import BulletError
from bulletlm.quant.bq4 import (
    Quantized,
    dequantize_bq4,
    dequantize_bq8,
    pack_bq4,
    pack_bq8,
    quantize_bq4,
    quantize_bq8,
    unpack_bq4,
    unpack_bq8,
)
from bulletlm.shape import BQ4_BYTES, BQ8_BYTES

GRIDS = {
    "BQ4": (quantize_bq4, dequantize_bq4, pack_bq4, unpack_bq4, BQ4_BYTES, gguf.GGMLQuantizationType.Q4_0),
    "BQ8": (quantize_bq8, dequantize_bq8, pack_bq8, unpack_bq8, BQ8_BYTES, gguf.GGMLQuantizationType.Q8_0),
}
F16_MAX = 65504.0

both_grids = pytest.mark.parametrize("grid", GRIDS)

# Every float32 that both grids can hold, including subnormals, both zeros and block maxima of either sign.
ordinary = st.floats(-500_000, 500_000, width=32)
weights = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 3).map(lambda n: 32 * n)), elements=ordinary)


def same_as_ggml(grid: str, w: np.ndarray) -> None:
    quantize, dequantize, _, _, size, ggml = GRIDS[grid]
    ours = quantize(w)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.quantize(w, ggml)
    assert ours.shape == (*w.shape[:-1], w.shape[-1] // 32, size)
    np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)
    values = dequantize(ours)
    assert values.dtype == np.float32 and values.shape == w.shape
    np.testing.assert_array_equal(values.view(np.uint32), gguf.quants.dequantize(theirs, ggml).view(np.uint32))


@both_grids
def test_bit_equal_to_ggml_on_weights_like_a_models(grid: str) -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((257, 1024), dtype=np.float32) * rng.lognormal(-4, 2, (257, 1)).astype(np.float32)
    w[::7] = np.round(w[::7] * 64) / 64  # many ties in size and in rounding
    w[3] = 0
    w[5, 100:] = 0
    same_as_ggml(grid, w)


@both_grids
@settings(max_examples=150, deadline=None)
@given(w=weights)
def test_bit_equal_to_ggml_on_anything_with_a_finite_reciprocal(grid: str, w: np.ndarray) -> None:
    w[np.abs(w) < 1e-35] = 0  # below, ggml divides by zero in effect; the next test says what we do
    same_as_ggml(grid, w)


@both_grids
@pytest.mark.parametrize("tiny", [1e-45, 1e-41, 1e-38, 1e-12, -1e-40])
def test_tiny_weights_become_zero(grid: str, tiny: float) -> None:
    quantize, dequantize, *_ = GRIDS[grid]
    w = np.full((1, 32), tiny, dtype=np.float32)
    w[0, 1] = -tiny / 2
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        assert not dequantize(quantize(w)).any()


@both_grids
@settings(max_examples=150, deadline=None)
@given(w=weights)
def test_error_bound(grid: str, w: np.ndarray) -> None:
    """A weight moves by half a step (a whole one at the far end of BQ4) plus the rounding of the scale to float16."""
    quantize, dequantize, _, unpack, _, _ = GRIDS[grid]
    blocks = quantize(w)
    scale = np.abs(unpack(blocks)[1].astype(np.float64))
    steps, share = (8, 1.0) if grid == "BQ4" else (127, 0.5)
    rounding = scale * 2**-11 * (1 + 2**-10) + 2.0**-25  # float16: relative for normal, absolute for subnormal scales
    bound = share * (scale + rounding) + steps * rounding
    error = np.abs(w - dequantize(blocks).astype(np.float64)).reshape(*scale.shape, 32)
    assert (error <= bound[..., None] * (1 + 1e-5)).all()


@settings(max_examples=50, deadline=None)
@given(w=hnp.arrays(np.float32, (1, 32), elements=st.floats(-4, 4, width=32)))
def test_the_largest_weight_of_a_bq4_block_is_kept(w: np.ndarray) -> None:
    largest = w[0, np.abs(w[0]).argmax()]
    kept = dequantize_bq4(quantize_bq4(w))[0, np.abs(w[0]).argmax()]
    assert abs(float(kept) - float(largest)) <= abs(float(largest)) * 2**-11 + 8 * 2.0**-25


@both_grids
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_pack_and_unpack_are_inverse(grid: str, data: st.DataObject) -> None:
    _, dequantize, pack, unpack, size, _ = GRIDS[grid]
    kind, low, high = (np.uint8, 0, 15) if grid == "BQ4" else (np.int8, -128, 127)
    q = data.draw(hnp.arrays(kind, (2, 64), elements=st.integers(low, high)))
    scales = data.draw(hnp.arrays(np.float16, (2, 2), elements=st.floats(-F16_MAX, F16_MAX, width=16)))
    blocks = pack(q, scales)
    assert blocks.shape == (2, 2, size) and blocks.dtype == np.uint8
    again_q, again_scales = unpack(blocks)
    np.testing.assert_array_equal(again_q, q)
    np.testing.assert_array_equal(again_scales.view(np.uint16), scales.view(np.uint16))
    expected = (q.astype(np.float32) - (8 if grid == "BQ4" else 0)) * np.repeat(scales, 32, axis=-1).astype(np.float32)
    np.testing.assert_array_equal(dequantize(blocks), expected)


def test_requantizing_bq4_keeps_the_numbers() -> None:
    w = np.random.default_rng(2).standard_normal((64, 256), dtype=np.float32)
    once = dequantize_bq4(quantize_bq4(w))
    np.testing.assert_array_equal(dequantize_bq4(quantize_bq4(once)), once)


def test_the_documented_bytes() -> None:
    w = np.arange(-16, 16, dtype=np.float32)  # largest -16: scale 2.0 = 0x4000
    assert quantize_bq4(w).tobytes() == bytes.fromhex("0040" + by_hand(w))
    assert quantize_bq8(np.full(32, 127, dtype=np.float32)).tobytes() == bytes.fromhex("003c" + "7f" * 32)


def by_hand(w: np.ndarray) -> str:
    """The spec's sentence, written out by hand: byte i holds weight i low and weight i + 16 high."""
    n = [min(15, int(float(x) / 2.0 + 8.5)) for x in w]
    return bytes(n[i] | n[i + 16] << 4 for i in range(16)).hex()


@both_grids
def test_zeros(grid: str) -> None:
    quantize, dequantize, *_ = GRIDS[grid]
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        assert not dequantize(quantize(np.zeros((4, 64), dtype=np.float32))).any()


@both_grids
@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (32,), (2, 3, 4, 32)])
def test_any_number_of_dimensions(grid: str, shape: tuple[int, ...]) -> None:
    quantize, dequantize, *_ = GRIDS[grid]
    w = np.ones(shape, dtype=np.float32)
    np.testing.assert_allclose(dequantize(quantize(w)), w, rtol=1e-3)


@both_grids
def test_the_largest_representable_weight(grid: str) -> None:
    quantize, dequantize, *_ = GRIDS[grid]
    steps = 8 if grid == "BQ4" else 127
    w = np.zeros(32, dtype=np.float32)
    w[3] = -steps * F16_MAX
    np.testing.assert_array_equal(dequantize(quantize(w)), w)
    w[3] *= 1.01
    with pytest.raises(BulletError, match=f"too large for {grid}"):
        quantize(w)


@both_grids
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(grid: str, bad: float) -> None:
    quantize, _, pack, *_ = GRIDS[grid]
    w = np.ones((2, 64), dtype=np.float32)
    w[1, 40] = bad
    with pytest.raises(BulletError, match="diverged") as caught:
        quantize(w)
    assert "\n" not in str(caught.value)
    with pytest.raises(BulletError, match="NaN or infinite"):
        pack(np.zeros(32, dtype=np.uint8 if grid == "BQ4" else np.int8), np.array([bad], dtype=np.float16))


@both_grids
def test_shapes_that_are_no_blocks(grid: str) -> None:
    quantize, _, pack, *_ = GRIDS[grid]
    with pytest.raises(BulletError, match="multiple of 32"):
        quantize(np.ones((2, 33), dtype=np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        pack(np.zeros(64, dtype=np.uint8 if grid == "BQ4" else np.int8), np.ones(1, dtype=np.float16))


def test_a_nibble_has_four_bits() -> None:
    with pytest.raises(ValueError, match="above 15"):
        pack_bq4(np.full(32, 16, dtype=np.uint8), np.ones(1, dtype=np.float16))


@both_grids
def test_quantized_knows_its_shape_and_values(grid: str) -> None:
    quantize, dequantize, *_ = GRIDS[grid]
    w = np.random.default_rng(3).standard_normal((5, 96), dtype=np.float32)
    tensor = Quantized(grid, quantize(w))
    assert tensor.shape == (5, 96)
    np.testing.assert_array_equal(tensor.dequantize(), dequantize(tensor.blocks))

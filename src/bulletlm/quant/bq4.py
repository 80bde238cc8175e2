"""The block formats BQ4 (4.5 bits per weight) and BQ8 (8.5 bits), which are bit for bit ggml's Q4_0 and Q8_0.

Both divide the last dimension into blocks of 32 weights that share one float16 scale:

    BQ4  18 bytes: scale, then 16 bytes; byte i holds weight i in its low and weight i + 16 in its high nibble
         weight = (nibble - 8) * scale
    BQ8  34 bytes: scale, then 32 signed bytes
         weight = byte * scale

The scale comes from the largest weight m of the block: BQ4 uses m / -8, so that m itself is exactly the code -8;
BQ8 uses |m| / 127. Rounding, ties and signs of zero follow ggml (`quantize_row_q4_0_ref`, `quantize_row_q8_0_ref`),
so that llama.cpp has exactly the same numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.errors import BulletError
from bulletlm.shape import BLOCK, BQ4_BYTES, BQ8_BYTES

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Quantized:
    """A quantized tensor. `blocks` is uint8[..., n // 32, 18 or 34] of type "BQ4" or "BQ8"."""

    type: str
    blocks: Bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor these blocks stand for."""
        return (*self.blocks.shape[:-2], self.blocks.shape[-2] * BLOCK)

    def dequantize(self) -> Floats:
        """The weights as float32."""
        return dequantize_bq4(self.blocks) if self.type == "BQ4" else dequantize_bq8(self.blocks)


def quantize_bq4(weights: npt.NDArray[np.floating]) -> Bytes:
    """Round float32[..., n] to BQ4 blocks, uint8[..., n // 32, 18].

    Each weight moves by at most |scale|, and by half of that unless it is the far end of its block, plus what the
    rounding of the scale to float16 adds.

    Raises:
        BulletError: n is not a multiple of 32, or a weight is NaN, infinite, or beyond what a float16 scale can hold.
    """
    blocks = _blocks(weights, "BQ4")
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)
    scales = largest / np.float32(-8)
    stored = _to_float16(scales, largest, 8, "BQ4")
    # The sum is never negative, so the conversion to integer rounds to nearest; only the far end reaches 16.
    nibbles = np.minimum((blocks * _reciprocal(scales) + np.float32(8.5)).astype(np.uint8), 15)
    return _join_bq4(nibbles, stored)


def dequantize_bq4(blocks: Bytes) -> Floats:
    """The weights of BQ4 blocks: uint8[..., b, 18] -> float32[..., b * 32]."""
    nibbles, scales = _split_bq4(blocks)
    weights = nibbles.astype(np.float32)
    weights -= 8
    weights *= scales.astype(np.float32)[..., None]
    return weights.reshape(*blocks.shape[:-2], blocks.shape[-2] * BLOCK)


def pack_bq4(nibbles: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> Bytes:
    """Join chosen nibbles, uint8[..., n] of 0..15, and scales, float16[..., n // 32], to blocks uint8[..., n // 32, 18].

    Raises:
        BulletError: a scale is NaN or infinite.
        ValueError: the shapes do not fit each other or a nibble is above 15.
    """
    if nibbles.size and nibbles.max() > 15:
        raise ValueError("a BQ4 nibble is above 15")
    return _join_bq4(_rows_of_blocks(nibbles, scales), _finite(scales, "BQ4"))


def unpack_bq4(blocks: Bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """The inverse of `pack_bq4`: uint8[..., b, 18] -> nibbles uint8[..., b * 32], scales float16[..., b]."""
    nibbles, scales = _split_bq4(blocks)
    return nibbles.reshape(*blocks.shape[:-2], blocks.shape[-2] * BLOCK), scales


def quantize_bq8(weights: npt.NDArray[np.floating]) -> Bytes:
    """Round float32[..., n] to BQ8 blocks, uint8[..., n // 32, 34].

    Raises:
        BulletError: n is not a multiple of 32, or a weight is NaN, infinite, or beyond what a float16 scale can hold.
    """
    blocks = _blocks(weights, "BQ8")
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    scales = largest / np.float32(127)
    stored = _to_float16(scales, largest, 127, "BQ8")
    exact = blocks * _reciprocal(scales)
    # C's roundf, which goes away from zero on ties; numpy's round goes to even.
    whole = np.trunc(exact)
    whole += np.trunc(2 * (exact - whole))
    return _join_bq8(whole.astype(np.int8), stored)


def dequantize_bq8(blocks: Bytes) -> Floats:
    """The weights of BQ8 blocks: uint8[..., b, 34] -> float32[..., b * 32]."""
    values, scales = _split_bq8(blocks)
    weights = values.astype(np.float32)
    weights *= scales.astype(np.float32)[..., None]
    return weights.reshape(*blocks.shape[:-2], blocks.shape[-2] * BLOCK)


def pack_bq8(values: npt.NDArray[np.int8], scales: npt.NDArray[np.float16]) -> Bytes:
    """Join chosen values, int8[..., n], and scales, float16[..., n // 32], to blocks uint8[..., n // 32, 34].

    Raises:
        BulletError: a scale is NaN or infinite.
        ValueError: the shapes do not fit each other.
    """
    return _join_bq8(_rows_of_blocks(values, scales), _finite(scales, "BQ8"))


def unpack_bq8(blocks: Bytes) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """The inverse of `pack_bq8`: uint8[..., b, 34] -> values int8[..., b * 32], scales float16[..., b]."""
    values, scales = _split_bq8(blocks)
    return values.reshape(*blocks.shape[:-2], blocks.shape[-2] * BLOCK), scales


def scales_of(blocks: Bytes) -> npt.NDArray[np.float16]:
    """The scales of BQ4 or BQ8 blocks: uint8[..., b, 18 or 34] -> float16[..., b]."""
    return np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float16, copy=False)


def _join_bq4(nibbles: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> Bytes:
    """nibbles uint8[..., b, 32], scales float16[..., b] -> uint8[..., b, 18]."""
    out = np.empty((*scales.shape, BQ4_BYTES), dtype=np.uint8)
    out[..., :2] = _as_bytes(scales)
    out[..., 2:] = nibbles[..., :16] | (nibbles[..., 16:] << 4)
    return out


def _split_bq4(blocks: Bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    pairs = blocks[..., 2:]
    nibbles = np.empty((*blocks.shape[:-1], BLOCK), dtype=np.uint8)
    np.bitwise_and(pairs, 15, out=nibbles[..., :16])
    np.right_shift(pairs, 4, out=nibbles[..., 16:])
    return nibbles, scales_of(blocks)


def _join_bq8(values: npt.NDArray[np.int8], scales: npt.NDArray[np.float16]) -> Bytes:
    """values int8[..., b, 32], scales float16[..., b] -> uint8[..., b, 34]."""
    out = np.empty((*scales.shape, BQ8_BYTES), dtype=np.uint8)
    out[..., :2] = _as_bytes(scales)
    out[..., 2:] = values.view(np.uint8)
    return out


def _split_bq8(blocks: Bytes) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    return np.ascontiguousarray(blocks[..., 2:]).view(np.int8), scales_of(blocks)


def _blocks(weights: npt.NDArray[np.floating], type: str) -> Floats:
    """float[..., n] -> float32[..., n // 32, 32]."""
    if weights.ndim == 0 or weights.shape[-1] % BLOCK:
        raise BulletError(f"a tensor of shape {list(weights.shape)} cannot be {type}: its last dimension must be a multiple of {BLOCK}")
    return np.ascontiguousarray(weights, dtype=np.float32).reshape(*weights.shape[:-1], weights.shape[-1] // BLOCK, BLOCK)


def _rows_of_blocks(values: npt.NDArray[Any], scales: npt.NDArray[np.float16]) -> npt.NDArray[Any]:
    if values.shape != (*scales.shape[:-1], scales.shape[-1] * BLOCK):
        raise ValueError(f"values of shape {values.shape} do not fit scales of shape {scales.shape}")
    return np.ascontiguousarray(values).reshape(*scales.shape, BLOCK)


def _reciprocal(scales: Floats) -> Floats:
    """1 / scale, and 0 where a block is all zeros or so small that 1 / scale overflows (its scale is 0 in float16 anyway)."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scales
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _to_float16(scales: Floats, largest: Floats, largest_code: int, type: str) -> npt.NDArray[np.float16]:
    """float32[..., b, 1] -> float16[..., b], refused where it is not finite."""
    with np.errstate(over="ignore"):
        rounded = scales[..., 0].astype(np.float16)
    bad = ~np.isfinite(rounded)
    if bad.any():
        worst = float(largest[..., 0][bad][0])
        if not np.isfinite(worst):
            raise BulletError(f"a weight is {worst}, which {type} cannot hold: the training that made it has diverged")
        limit = largest_code * float(np.finfo(np.float16).max)
        raise BulletError(f"the weight {worst:g} is too large for {type}, which ends at {limit:g}: store this tensor as F32")
    return rounded


def _finite(scales: npt.NDArray[np.float16], type: str) -> npt.NDArray[np.float16]:
    if not np.isfinite(scales).all():
        raise BulletError(f"a {type} scale is NaN or infinite")
    return scales


def _as_bytes(scales: npt.NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(scales, dtype="<f2").view(np.uint8).reshape(*scales.shape, 2)

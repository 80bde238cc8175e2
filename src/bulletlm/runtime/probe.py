"""Makes the tiny model of the native engine's self-test without numpy: it has all weight types and equal weights on every computer."""

from __future__ import annotations

import struct

from bulletlm.shape import BLOCK, ModelShape

SHAPE = ModelShape(48, 64, 2, 4, 2, 96, 16, tied_embeddings=False)
TOKENS = tuple(n * 29 % 48 for n in range(16))

LOGITS = (
    -0.3505,
    0.6262,
    -0.7532,
    0.1266,
    0.6346,
    0.8361,
    -0.6010,
    1.6580,
    -0.2855,
    0.9072,
    -0.6775,
    -0.8359,
    0.1288,
    -0.3053,
    -0.4894,
    -0.0791,
    -0.3272,
    0.4436,
    0.2551,
    -0.3641,
    -0.2850,
    0.4536,
    -0.8921,
    -0.4716,
    -0.4830,
    0.0192,
    0.7085,
    0.0001,
    0.0876,
    0.7923,
    -0.0789,
    -0.1464,
    -0.9371,
    -0.4678,
    -0.1212,
    0.4446,
    -0.0699,
    0.6486,
    1.2824,
    0.4345,
    0.6536,
    -0.4744,
    1.1431,
    -0.1021,
    0.4880,
    -0.1415,
    -0.2062,
    0.0929,
)
"""Logits after the last of TOKENS, from a float64 forward pass over these weights; a test computes them again."""

_OTHER_TYPES = {"layers.1.attention.o_proj.weight": "F16", "layers.1.attention.v_proj.weight": "F32"}


def weights() -> dict[str, tuple[str, bytearray]]:
    """Name -> type and bytes of every tensor, as a file stores them; takes a millisecond."""
    tensors = {}
    for number, (name, extents) in enumerate(SHAPE.tensors().items()):
        if len(extents) == 1:
            tensors[name] = "F32", _numbers("<f", extents[0], 0.5, 1.0, number)
            continue
        rows, cols = extents
        type = _OTHER_TYPES.get(name, "BQ4" if name.startswith("layers.") else "BQ8")
        if type in ("F16", "F32"):
            tensors[name] = type, _numbers("<e" if type == "F16" else "<f", rows * cols, 2 * cols**-0.5, 0.0, number)
        else:
            tensors[name] = type, _blocks(rows * cols, 16 if type == "BQ4" else 32, (0.22 if type == "BQ4" else 0.014) * cols**-0.5, number)
    return tensors


def _noise(size: int, number: int) -> bytes:
    """Return pseudo-random bytes: the binary digits of a fraction with a large prime as denominator."""
    return (((number + 2) * 999_983 << 8 * size) // 2_147_483_647 & (1 << 8 * size) - 1).to_bytes(size, "little")


def _numbers(format: str, count: int, spread: float, middle: float, number: int) -> bytearray:
    table = [struct.pack(format, middle + spread * (byte - 127.5) / 127.5) for byte in range(256)]
    return bytearray().join(table[byte] for byte in _noise(count, number))


def _blocks(count: int, size: int, scale: float, number: int) -> bytearray:
    scales = [struct.pack("<e", scale * factor) for factor in (1.0, -0.75, 1.25, 0.5, -1.5)]
    noise = _noise(count // BLOCK * size, number)
    return bytearray().join(scales[block % 5] + noise[block * size : (block + 1) * size] for block in range(count // BLOCK))

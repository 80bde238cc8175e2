"""The forward pass in parts, for calibration: each part computes the input of one group of weight matrices.

The runtime's engine computes the same pass as a whole; a test compares them. B = sequences, N = positions,
weight matrices are (outputs, inputs), everything is float32.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from bulletlm.shape import MIN_ATTENTION_LOGIT, ModelShape

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]
"""The tensors of one layer, named without the "layers.N." before them."""

P = ParamSpec("P")
T = TypeVar("T")


def quiet(function: Callable[P, T]) -> Callable[P, T]:
    """Switch off numpy's warnings: the exponential may correctly overflow to infinity, and the caller checks the result."""

    @wraps(function)
    def quietly(*args: P.args, **kwargs: P.kwargs) -> T:
        with np.errstate(over="ignore", invalid="ignore"):
            return function(*args, **kwargs)

    return quietly


@quiet
def attention_input(x: Floats, layer: Weights, shape: ModelShape) -> Floats:
    """Return the input of q_proj, k_proj and v_proj: float32[B, N, dim] -> the same shape."""
    return _norm(x, layer["attention_norm.weight"], shape)


@quiet
def output_input(x: Floats, layer: Weights, shape: ModelShape) -> Floats:
    """Return the input of o_proj, the attention output of all heads: float32[B, N, dim] -> the same shape."""
    batch, length, _ = x.shape
    queries, keys, values = heads(x, layer, shape)
    mixed: Floats = attention(queries, keys) @ values
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, -1)


def heads(x: Floats, layer: Weights, shape: ModelShape) -> tuple[Floats, Floats, Floats]:
    """Queries, float32[B, key/value heads, heads that share them, N, head_dim], and keys and values, with 1 in the third place."""
    batch, length, _ = x.shape
    count, size = shape.n_kv_heads, shape.head_dim
    h = attention_input(x, layer, shape)
    queries = rotate((h @ layer["attention.q_proj.weight"].T).reshape(batch, length, -1, size), shape)
    keys = rotate((h @ layer["attention.k_proj.weight"].T).reshape(batch, length, count, size), shape)
    values = (h @ layer["attention.v_proj.weight"].T).reshape(batch, length, count, size)
    queries = queries.reshape(batch, length, count, -1, size).transpose(0, 2, 3, 1, 4)
    return queries, keys.transpose(0, 2, 1, 3)[:, :, None], values.transpose(0, 2, 1, 3)[:, :, None]


def attention(queries: Floats, keys: Floats) -> Floats:
    """Return the attention weights of each position for itself and all earlier ones: float32[..., N, N]."""
    length, size = queries.shape[-2:]
    scores: Floats = queries @ (keys * np.float32(size**-0.5)).swapaxes(-1, -2)
    scores += np.triu(np.full((length, length), -np.inf, np.float32), 1)
    scores -= scores.max(axis=-1, keepdims=True)
    scores[scores < MIN_ATTENTION_LOGIT] = -np.inf
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


@quiet
def mlp_input(x: Floats, layer: Weights, shape: ModelShape) -> Floats:
    """Return the input of gate_proj and up_proj: float32[B, N, dim] -> the same shape."""
    return _norm(x, layer["mlp_norm.weight"], shape)


@quiet
def down_input(x: Floats, layer: Weights, shape: ModelShape) -> Floats:
    """Return the input of down_proj, silu(gate) * up: float32[B, N, dim] -> float32[B, N, hidden_dim]."""
    h = mlp_input(x, layer, shape)
    gate = h @ layer["mlp.gate_proj.weight"].T
    up = h @ layer["mlp.up_proj.weight"].T
    up *= gate / (1 + np.exp(-gate))
    return up


@quiet
def head_input(x: Floats, gain: Floats, shape: ModelShape) -> Floats:
    """Return the input of the output matrix: float32[B, N, dim] -> the same shape."""
    return _norm(x, gain, shape)


def _norm(x: Floats, gain: Floats, shape: ModelShape) -> Floats:
    mean = np.einsum("bni,bni->bn", x, x)[..., None] / np.float32(shape.dim)
    normed: Floats = x / np.sqrt(mean + np.float32(shape.norm_eps)) * gain
    return normed


def rotate(heads: Floats, shape: ModelShape, direction: int = 1) -> Floats:
    """RoPE, float32[B, N, heads, head_dim]: the pair (2i, 2i + 1) is a complex number, turned by its position (-1: turned back)."""
    rotation = _rotation(shape, heads.shape[1])[:, None]
    pairs = np.ascontiguousarray(heads).view(np.complex64) * (rotation if direction > 0 else rotation.conj())
    return pairs.view(np.float32)


@lru_cache(maxsize=4)
def _rotation(shape: ModelShape, length: int) -> npt.NDArray[np.complex64]:
    """complex64[N, head_dim / 2]."""
    frequencies = shape.rope_theta ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
    rotation: npt.NDArray[np.complex64] = np.exp(1j * np.outer(np.arange(length), frequencies)).astype(np.complex64)
    return rotation

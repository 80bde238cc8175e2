"""Quantizes as llama.cpp does: calls its C code inside the xllamacpp wheel and reads the result with the gguf package.

The wheel does not contain `llama-quantize`. So this module chooses the type of each tensor of a Q4_K_M file itself, by the rules of
`llama_tensor_get_type` in llama.cpp.
"""

import ctypes
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from bulletlm.quant import forward
from bulletlm.shape import ModelShape

Floats = np.ndarray[Any, np.dtype[np.float32]]


@cache
def _quantize_chunk() -> Any:
    """size_t ggml_quantize_chunk(type, const float * src, void * dst, start, rows, columns, const float * imatrix)"""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise SystemExit("llama.cpp's own rounding needs xllamacpp: pip install 'bulletlm[bench]'")
    function = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so")))).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return function


def quantize(weights: Floats, type: str, importance: Floats | None = None) -> tuple[Floats, int]:
    """Round float32[R, n] to a ggml type ("Q4_0", "IQ4_NL", "Q4_K" ...): the weights that llama.cpp computes with, and their bytes.

    importance: float32[n], the mean square of each input, as in llama.cpp's imatrix.
    """
    kind = gguf.GGMLQuantizationType[type]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    weights = np.ascontiguousarray(weights, np.float32)
    stored = np.empty((len(weights), weights.shape[1] // block * size), np.uint8)
    importance = None if importance is None else np.ascontiguousarray(importance, np.float32)
    pointer = None if importance is None else importance.ctypes.data
    written = _quantize_chunk()(int(kind), weights.ctypes.data, stored.ctypes.data, 0, *weights.shape, pointer)
    assert written == stored.nbytes
    return gguf.quants.dequantize(stored, kind).astype(np.float32), stored.nbytes


def fits(shape: ModelShape, type: str) -> bool:
    """Return whether all rows consist of whole blocks; the K types have blocks of 256."""
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]][0]
    return shape.dim % block == 0 and shape.hidden_dim % block == 0


def q4_k_m(shape: ModelShape) -> dict[str, str]:
    """Return the types of a Q4_K_M file: Q4_K; Q6_K for the output matrix and for value and down projections of half of the layers."""
    first, last = shape.n_layers // 8, 7 * shape.n_layers // 8
    types = {}
    for name, extents in shape.tensors().items():
        if len(extents) == 2:
            n = int(name.split(".")[1]) if name.startswith("layers.") else 0
            more = n < first or n >= last or (n - first) % 3 == 2
            best = name == "lm_head.weight" or (shape.tied_embeddings and name == "token_embedding.weight")
            types[name] = "Q6_K" if best or (more and ("v_proj" in name or "down_proj" in name)) else "Q4_K"
    return types


def imatrix(shape: ModelShape, tensors: Mapping[str, Floats], windows: np.ndarray[Any, Any]) -> dict[str, Floats]:
    """Return the mean square of each input of each layer matrix, in FP32, over token ids int[count, length]."""
    found: dict[str, Floats] = {}
    x = tensors["token_embedding.weight"][windows]

    def mean_square(inputs: Floats) -> Floats:
        return np.square(inputs, dtype=np.float64).reshape(-1, inputs.shape[-1]).mean(axis=0).astype(np.float32)

    for n in range(shape.n_layers):
        prefix = f"layers.{n}."
        layer = {name.removeprefix(prefix): np.asarray(tensors[name]) for name in shape.tensors() if name.startswith(prefix)}
        inputs = forward.attention_input(x, layer, shape)
        found |= dict.fromkeys((f"{prefix}attention.{part}_proj.weight" for part in "qkv"), mean_square(inputs))
        inputs = forward.output_input(x, layer, shape)
        found[f"{prefix}attention.o_proj.weight"] = mean_square(inputs)
        x = x + inputs @ layer["attention.o_proj.weight"].T
        inputs = forward.mlp_input(x, layer, shape)
        found |= dict.fromkeys((f"{prefix}mlp.{part}_proj.weight" for part in ("gate", "up")), mean_square(inputs))
        inputs = forward.down_input(x, layer, shape)
        found[f"{prefix}mlp.down_proj.weight"] = mean_square(inputs)
        x = x + inputs @ layer["mlp.down_proj.weight"].T
    return found

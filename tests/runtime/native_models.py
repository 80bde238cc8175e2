"""Encoded weights and the numbers that they represent."""

import numpy as np

from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.shape import ModelShape

EncodedTensor = np.ndarray | Quantized


def random_weights(shape: ModelShape, types: str = "standard", seed: int = 0) -> dict[str, EncodedTensor]:
    """Random weights as a file stores them. types: "standard", one of BQ4, BQ8, F16, F32 for all matrices, or "mixed"."""
    rng = np.random.default_rng([seed, 31])
    cycle = ("BQ4", "F16", "BQ8", "F32", "BQ4", "BQ8")
    weights: dict[str, EncodedTensor] = {}
    for i, (name, extents) in enumerate(shape.tensors().items()):
        values = rng.standard_normal(extents, dtype=np.float32) / np.float32(extents[-1] ** 0.5 if len(extents) == 2 else 4)
        type = {"standard": "BQ4" if name.startswith("layers.") else "BQ8", "mixed": cycle[i % len(cycle)]}.get(types, types)
        if len(extents) == 1:
            weights[name] = values + np.float32(1)
        elif type == "BQ4":
            weights[name] = Quantized(type, quantize_bq4(values))
        elif type == "BQ8":
            weights[name] = Quantized(type, quantize_bq8(values))
        else:
            weights[name] = values.astype(np.float16 if type == "F16" else np.float32)
    return weights


def floats(weights: dict[str, EncodedTensor]) -> dict[str, np.ndarray]:
    """The numbers that stored weights stand for, float64."""
    return {name: (w.dequantize() if isinstance(w, Quantized) else w).astype(np.float64) for name, w in weights.items()}

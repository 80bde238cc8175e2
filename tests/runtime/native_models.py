"""Weights on their grids, and a float64 forward pass to hold the native engine against."""

import numpy as np

from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.shape import ModelShape

Stored = np.ndarray | Quantized


def random_weights(shape: ModelShape, types: str = "standard", seed: int = 0) -> dict[str, Stored]:
    """Random weights as a file stores them. types: "standard", one of BQ4, BQ8, F16, F32 for all matrices, or "mixed"."""
    rng = np.random.default_rng([seed, 31])
    cycle = ("BQ4", "F16", "BQ8", "F32", "BQ4", "BQ8")
    weights: dict[str, Stored] = {}
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


def floats(weights: dict[str, Stored]) -> dict[str, np.ndarray]:
    """The numbers that stored weights stand for, float64."""
    return {name: (w.dequantize() if isinstance(w, Quantized) else w).astype(np.float64) for name, w in weights.items()}


def reference(shape: ModelShape, w: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """docs/bullet-format.md, "The model", in float64: int[N] -> float64[N, vocab_size]."""
    n, d, group = len(tokens), shape.head_dim, shape.n_heads // shape.n_kv_heads
    angles = np.outer(np.arange(n), shape.rope_theta ** (-2 * np.arange(d // 2) / d))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + shape.norm_eps) * gain

    def rotate(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    x = w["token_embedding.weight"][tokens]
    for layer in range(shape.n_layers):
        at = f"layers.{layer}."
        a = norm(x, w[at + "attention_norm.weight"])
        q, k, v = ((a @ w[f"{at}attention.{name}_proj.weight"].T).reshape(n, -1, d) for name in "qkv")
        q, k, v = rotate(q), rotate(k).repeat(group, axis=1), v.repeat(group, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d) + np.triu(np.full((n, n), -np.inf), 1)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = np.einsum("hij,jhd->ihd", p / p.sum(axis=-1, keepdims=True), v).reshape(n, -1)
        x = x + mixed @ w[at + "attention.o_proj.weight"].T
        m = norm(x, w[at + "mlp_norm.weight"])
        gate = m @ w[at + "mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (m @ w[at + "mlp.up_proj.weight"].T)) @ w[at + "mlp.down_proj.weight"].T
    head = w["token_embedding.weight"] if shape.tied_embeddings else w["lm_head.weight"]
    return norm(x, w["final_norm.weight"]) @ head.T

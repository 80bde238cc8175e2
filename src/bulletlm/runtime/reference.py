"""The forward pass of docs/bullet-format.md, "The model", in float64: the reference for the engines in tests and benchmarks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.shape import ModelShape

Floats64 = npt.NDArray[np.float64]


def reference(shape: ModelShape, w: Mapping[str, Floats64], tokens: npt.NDArray[np.integer[Any]]) -> Floats64:
    """Return the logits after each token of a text: int[N] -> float64[N, vocab_size].

    Args:
        shape: the model's shape.
        w: float64 tensors, every one of `shape.tensors()`.
        tokens: [N] ids.
    """
    n, d, group = len(tokens), shape.head_dim, shape.n_heads // shape.n_kv_heads
    angles = np.outer(np.arange(n), shape.rope_theta ** (-2 * np.arange(d // 2) / d))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def norm(x: Floats64, gain: Floats64) -> Floats64:
        size: Floats64 = np.sqrt((x * x).mean(axis=-1, keepdims=True) + shape.norm_eps)
        return x / size * gain

    def rotate(x: Floats64) -> Floats64:
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

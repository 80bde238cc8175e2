"""Computes how strongly an error in the output of each matrix changes the predictions: the output factor of the K-FAC curvature.

To second order, the divergence KL(FP32 || rounded) that an error E in one matrix causes is trace(M E H E^T) / 2, with
H = E[x x^T] of its inputs and M = E[g g^T] of the gradients g that reach its outputs (K-FAC, Martens and Grosse 2015): the
gradients of -log p of tokens that FP32 itself draws. H comes from calibration; M is computed here, in one backward pass.

B = sequences, N = positions; everything is float32; numpy only.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bulletlm.progress import Progress
from bulletlm.quant import forward
from bulletlm.shape import ModelShape

Floats = npt.NDArray[np.float32]

TOKENS_PER_PASS = 1_024
"""Positions of one forward and backward pass; limits the memory of the saved activations."""

DRAWS_SEED = 3
"""Seed of the tokens that are drawn from the FP32 predictions."""

MAX_OUTPUTS = 1_024
"""Largest number of outputs for which M is computed; for more outputs it would take more memory than the model."""


@forward.quiet
def output_curvature(
    shape: ModelShape, tensors: Mapping[str, Floats], windows: npt.NDArray[np.integer], progress: Progress
) -> dict[str, Floats]:
    """M, float32[R, R], for every matrix of the layers with at most MAX_OUTPUTS outputs R, scaled to a mean diagonal of 1.

    Args:
        shape: the model's shape.
        tensors: the FP32 weights.
        windows: text, token ids int[count, length].
        progress: shows the bar.
    """
    random = np.random.default_rng(DRAWS_SEED)
    sums: dict[str, Floats] = {}
    at_once = max(1, TOKENS_PER_PASS // windows.shape[1])
    with progress.task("Curvature", windows.size) as task:
        for at in range(0, len(windows), at_once):
            _add_chunk(shape, tensors, windows[at : at + at_once], random, sums)
            task.advance(windows[at : at + at_once].size)
    return {name: total * np.float32(len(total) / max(float(np.trace(total)), 1e-30)) for name, total in sums.items()}


def _add_chunk(
    shape: ModelShape,
    tensors: Mapping[str, Floats],
    windows: npt.NDArray[np.integer],
    random: np.random.Generator,
    sums: dict[str, Floats],
) -> None:
    """Add sum of g g^T over the positions of some windows."""
    layers = []
    for n in range(shape.n_layers):
        prefix = f"layers.{n}."
        layers.append({name.removeprefix(prefix): np.asarray(tensors[name]) for name in shape.tensors() if name.startswith(prefix)})
    states = [tensors["token_embedding.weight"][windows]]
    middles = []
    for layer in layers:
        x = states[-1]
        middles.append(x + forward.output_input(x, layer, shape) @ layer["attention.o_proj.weight"].T)
        states.append(middles[-1] + forward.down_input(middles[-1], layer, shape) @ layer["mlp.down_proj.weight"].T)

    gain = np.asarray(tensors["final_norm.weight"])
    head = np.asarray(tensors["token_embedding.weight" if shape.tied_embeddings else "lm_head.weight"])
    logits = forward.head_input(states[-1], gain, shape) @ head.T
    logits -= logits.max(axis=-1, keepdims=True)
    back: Floats = np.exp(logits, out=logits)
    back /= back.sum(axis=-1, keepdims=True)
    # The gradient of -log p of a drawn token: p - 1 at this token.
    chosen = (np.cumsum(back, axis=-1) < random.random((*back.shape[:-1], 1), dtype=np.float32)).sum(axis=-1)
    chosen = np.minimum(chosen, shape.vocab_size - 1)[..., None]
    np.put_along_axis(back, chosen, np.take_along_axis(back, chosen, -1) - 1, -1)
    back = _norm_back(back @ head, states.pop(), gain, shape)

    def add(n: int, part: str, gradient: Floats) -> None:
        g = gradient.reshape(-1, gradient.shape[-1])
        if g.shape[1] <= MAX_OUTPUTS:
            name = f"layers.{n}.{part}.weight"
            sums[name] = sums.get(name, np.float32(0)) + g.T @ g

    for n in reversed(range(shape.n_layers)):
        layer, middle, x = layers[n], middles.pop(), states.pop()
        h = forward.mlp_input(middle, layer, shape)
        gate, up = h @ layer["mlp.gate_proj.weight"].T, h @ layer["mlp.up_proj.weight"].T
        sigmoid: Floats = 1 / (1 + np.exp(-gate))
        inner: Floats = back @ layer["mlp.down_proj.weight"]
        to_up = inner * gate * sigmoid
        to_gate = inner * up * sigmoid * (1 + gate * (1 - sigmoid))
        add(n, "mlp.down_proj", back)
        add(n, "mlp.up_proj", to_up)
        add(n, "mlp.gate_proj", to_gate)
        to_norm = to_gate @ layer["mlp.gate_proj.weight"] + to_up @ layer["mlp.up_proj.weight"]
        back = back + _norm_back(to_norm, middle, layer["mlp_norm.weight"], shape)

        add(n, "attention.o_proj", back)
        to_query, to_key, to_value = _attention_back(back @ layer["attention.o_proj.weight"], x, layer, shape)
        add(n, "attention.q_proj", to_query)
        add(n, "attention.k_proj", to_key)
        add(n, "attention.v_proj", to_value)
        to_norm = to_query @ layer["attention.q_proj.weight"] + to_key @ layer["attention.k_proj.weight"]
        to_norm += to_value @ layer["attention.v_proj.weight"]
        back = back + _norm_back(to_norm, x, layer["attention_norm.weight"], shape)


def _norm_back(gradient: Floats, x: Floats, gain: Floats, shape: ModelShape) -> Floats:
    """The gradient at the input x of RMSNorm, given the one at its output; float32[B, N, dim]."""
    scale = 1 / np.sqrt(np.einsum("bni,bni->bn", x, x)[..., None] / np.float32(shape.dim) + np.float32(shape.norm_eps))
    inner = gradient * gain
    along = np.einsum("bni,bni->bn", inner, x)[..., None] / np.float32(shape.dim)
    result: Floats = scale * (inner - x * (scale * scale * along))
    return result


def _attention_back(gradient: Floats, x: Floats, layer: forward.Weights, shape: ModelShape) -> tuple[Floats, Floats, Floats]:
    """Gradients at the outputs of q_proj, k_proj and v_proj, given the one at the input of o_proj, float32[B, N, dim]."""
    batch, length, _ = x.shape
    size = shape.head_dim
    queries, keys, values = forward.heads(x, layer, shape)
    weights = forward.attention(queries, keys)
    mixed = gradient.reshape(batch, length, shape.n_kv_heads, -1, size).transpose(0, 2, 3, 1, 4)
    to_weights = mixed @ values.swapaxes(-1, -2)
    to_scores = weights * (to_weights - (to_weights * weights).sum(axis=-1, keepdims=True)) * np.float32(size**-0.5)
    to_values = (weights.swapaxes(-1, -2) @ mixed).sum(axis=2)
    to_keys = (to_scores.swapaxes(-1, -2) @ queries).sum(axis=2)
    to_queries = to_scores @ keys
    # [B, key/value heads, (heads that share them,) N, size] -> [B, N, heads, size], turned back.
    to_queries = forward.rotate(to_queries.transpose(0, 3, 1, 2, 4).reshape(batch, length, -1, size), shape, -1)
    to_keys = forward.rotate(to_keys.transpose(0, 2, 1, 3), shape, -1)
    flat = batch, length, -1
    return to_queries.reshape(flat), to_keys.reshape(flat), to_values.transpose(0, 2, 1, 3).reshape(flat)

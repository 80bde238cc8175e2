"""Computes the sensitivity of the predictions to each matrix: the KL divergence if only this matrix is rounded and all others are FP32.

numpy only.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from bulletlm.progress import Progress
from bulletlm.quant import forward
from bulletlm.shape import ModelShape

Floats = npt.NDArray[np.float32]


@forward.quiet
def sensitivity(
    shape: ModelShape, exact: Mapping[str, Floats], rounded: Mapping[str, Floats], windows: npt.NDArray[np.integer], progress: Progress
) -> tuple[dict[str, float], dict[str, float]]:
    """Return KL(FP32 || one part rounded) of the next-token distributions, in nats per token.

    Later matrices do not compensate here, so these are upper bounds of the cost of a part in the whole file. The layers before
    the part are computed once.

    Args:
        shape: the model's shape.
        exact: the FP32 tensors.
        rounded: the same as a reader of the file sees them.
        windows: held-out text, token ids int[count, length].
        progress: shows the bar.

    Returns:
        The costs by matrix ("layers.0.mlp.up_proj.weight"; a tied embedding counts at both places), and by part
        ("token_embedding", "layers.0", ..., "lm_head").
    """
    layers = [[name for name in shape.tensors() if name.startswith(f"layers.{n}.")] for n in range(shape.n_layers)]
    states = [exact["token_embedding.weight"][windows]]
    for names in layers:
        states.append(_layer(states[-1], exact, names, shape))
    wanted = _log_probabilities(states[-1], exact, shape)

    def cost(start: int, changed: Iterable[str]) -> float:
        """With the tensors `changed` rounded, from layer `start` on."""
        tensors = {**exact, **{name: rounded[name] for name in changed}}
        x = tensors["token_embedding.weight"][windows] if "token_embedding.weight" in changed else states[start]
        for names in layers[start:]:
            x = _layer(x, tensors, names, shape)
        got = _log_probabilities(x, tensors, shape)
        return max(0.0, float((np.exp(wanted) * (wanted - got)).sum(axis=-1, dtype=np.float64).mean()))

    by_matrix, by_part = {}, {}
    parts = [("token_embedding", 0, ["token_embedding.weight"])]
    parts += [(f"layers.{n}", n, [name for name in names if len(shape.tensors()[name]) > 1]) for n, names in enumerate(layers)]
    if not shape.tied_embeddings:
        parts.append(("lm_head", shape.n_layers, ["lm_head.weight"]))
    with progress.task("Sensitivity", sum(len(matrices) for _, _, matrices in parts)) as task:
        for part, start, matrices in parts:
            for name in matrices:
                by_matrix[name] = cost(start, [name])
                task.advance(1, name.removesuffix(".weight"))
            by_part[part] = cost(start, matrices) if len(matrices) > 1 else by_matrix[matrices[0]]
    return by_matrix, by_part


def _layer(x: Floats, tensors: Mapping[str, Floats], names: Iterable[str], shape: ModelShape) -> Floats:
    """float32[B, N, dim] -> the same shape."""
    layer = {name.split(".", 2)[2]: np.asarray(tensors[name]) for name in names}
    x = x + forward.output_input(x, layer, shape) @ layer["attention.o_proj.weight"].T
    return x + forward.down_input(x, layer, shape) @ layer["mlp.down_proj.weight"].T


def _log_probabilities(x: Floats, tensors: Mapping[str, Floats], shape: ModelShape) -> npt.NDArray[np.float64]:
    """float32[B, N, dim] -> float64[B, N, vocab]."""
    head = tensors["token_embedding.weight" if shape.tied_embeddings else "lm_head.weight"]
    logits = (forward.head_input(x, tensors["final_norm.weight"], shape) @ head.T).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits

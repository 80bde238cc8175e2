"""Tests the sensitivity of a matrix against the runtime's engine with only that matrix quantized."""

from pathlib import Path

import numpy as np
import pytest

from bulletlm.data.tokens import open_tokens
from bulletlm.formats.npy import read_npy
from bulletlm.progress import SilentProgress
from bulletlm.quant.sensitivity import sensitivity
from bulletlm.runtime.engine import NumpyEngine
from bulletlm.shape import ModelShape


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def by_hand(shape: ModelShape, exact: dict, rounded: dict, names: list[str], windows: np.ndarray) -> float:
    changed = {name: rounded[name] if name in names else exact[name] for name in exact}
    a, b = (log_softmax(NumpyEngine(shape, tensors).score(windows)) for tensors in (exact, changed))
    return float((np.exp(a) * (a - b)).sum(-1).mean())


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_the_divergence_with_one_part_exchanged(micro_run: Path, tied: bool) -> None:
    shape, tensors, _, _ = read_npy(micro_run / "export" / "npy")
    exact = dict(tensors)
    if not tied:
        shape = ModelShape(**{**shape.to_dict(), "tied_embeddings": False})
        exact["lm_head.weight"] = exact["token_embedding.weight"][::-1].copy()
    random = np.random.default_rng(1)
    rounded = {name: (w + w.std() * random.normal(size=w.shape)).astype(np.float32) if w.ndim == 2 else w for name, w in exact.items()}
    windows = np.asarray(open_tokens(micro_run / "tokens", "val").tokens[:96], np.int64).reshape(3, 32)
    by_matrix, by_part = sensitivity(shape, exact, rounded, windows, SilentProgress())
    assert list(by_matrix) == [name for name, extents in shape.tensors().items() if len(extents) == 2]
    for name, cost in by_matrix.items():
        assert cost == pytest.approx(by_hand(shape, exact, rounded, [name], windows), rel=1e-3, abs=1e-7), name
    assert list(by_part) == ["token_embedding", "layers.0", "layers.1", *(() if tied else ("lm_head",))]
    whole = [name for name in by_matrix if name.startswith("layers.1.")]
    assert by_part["layers.1"] == pytest.approx(by_hand(shape, exact, rounded, whole, windows), rel=1e-3, abs=1e-7)
    assert max(by_part.values()) > 1e-3

"""Tests calibration of a whole network: same forward pass as the engine, smaller error than rounding, equal bits for equal inputs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bulletlm.data.tokens import open_tokens
from bulletlm.errors import BulletError, DataError
from bulletlm.evaluate.compare import compare
from bulletlm.evaluate.perplexity import log_softmax
from bulletlm.formats.npy import read_npy
from bulletlm.pipeline.build import calibration_windows
from bulletlm.progress import SilentProgress
from bulletlm.quant import forward
from bulletlm.quant.bq4 import Quantized, quantize_bq4, quantize_bq8
from bulletlm.quant.calibrate import Calibrated, QuantizeOptions, dequantize, quantize
from bulletlm.quant.types import standard_types, weight_types
from bulletlm.runtime import Model, NumpyEngine
from bulletlm.runtime.sampling import Sampling
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer

SHAPE = ModelShape(vocab_size=300, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=96, max_seq_len=24, rope_theta=500.0)


def random_tensors(shape: ModelShape, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.lognormal(0, 0.2, extents).astype(np.float32)
        if len(extents) == 1
        else (random.standard_normal(extents) / extents[-1] ** 0.5 * (5 if name == "token_embedding.weight" else 1)).astype(np.float32)
        for name, extents in shape.tensors().items()
    }


def random_windows(shape: ModelShape, count: int = 80, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, shape.vocab_size, (count, shape.max_seq_len))


def run(method: str, tensors: dict[str, np.ndarray], shape: ModelShape = SHAPE, **changes: object) -> Calibrated:
    arguments = {"types": standard_types(shape), "windows": random_windows(shape), **changes}
    return quantize(
        shape, tensors, QuantizeOptions(types=arguments["types"], method=method, windows=arguments["windows"]), SilentProgress()
    )


def blocks(done: Calibrated) -> dict[str, bytes]:
    return {name: (tensor.blocks if isinstance(tensor, Quantized) else tensor).tobytes() for name, tensor in done.tensors.items()}


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, tied_embeddings=False, n_kv_heads=4, n_layers=1)], ids=["grouped", "untied"])
def test_the_pieces_make_the_network_of_the_engine(shape: ModelShape) -> None:
    tensors, tokens = random_tensors(shape), random_windows(shape, 3)
    x = tensors["token_embedding.weight"][tokens]
    for n in range(shape.n_layers):
        layer = {name.removeprefix(f"layers.{n}."): tensor for name, tensor in tensors.items() if name.startswith(f"layers.{n}.")}
        x = x + forward.output_input(x, layer, shape) @ layer["attention.o_proj.weight"].T
        x = x + forward.down_input(x, layer, shape) @ layer["mlp.down_proj.weight"].T
    head = tensors["token_embedding.weight" if shape.tied_embeddings else "lm_head.weight"]
    logits = forward.head_input(x, tensors["final_norm.weight"], shape) @ head.T
    np.testing.assert_allclose(logits, NumpyEngine(shape, tensors).score(tokens), rtol=1e-4, atol=2e-4 * np.abs(logits).max())


def test_the_method_none_is_ggmls_rounding() -> None:
    tensors = random_tensors(SHAPE)
    done = run("none", tensors, windows=None)
    assert list(done.tensors) == list(SHAPE.tensors())
    for name, tensor in done.tensors.items():
        if tensors[name].ndim == 1:
            assert tensor is tensors[name]
        else:
            wanted = quantize_bq8(tensors[name]) if name == "token_embedding.weight" else quantize_bq4(tensors[name])
            np.testing.assert_array_equal(tensor.blocks, wanted)
    assert done.tokens == 0 and all(row.output_error is None for row in done.report.values())


def divergence(shape: ModelShape, tensors: dict[str, np.ndarray], done: Calibrated, tokens: np.ndarray) -> float:
    """Mean KL from the exact predictions."""
    rounded = {name: dequantize(tensor) for name, tensor in done.tensors.items()}
    a, b = (log_softmax(NumpyEngine(shape, weights).score(tokens)) for weights in (tensors, rounded))
    return float((np.exp(a) * (a - b)).sum(-1).mean())


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, tied_embeddings=False, n_layers=1)], ids=["grouped", "untied"])
def test_each_method_loses_less_than_the_simpler_one(shape: ModelShape) -> None:
    tensors, tokens = random_tensors(shape), random_windows(shape, 40, seed=9)
    types = weight_types(shape, "BQ4", "BQ4" if not shape.tied_embeddings else None)
    plain, search, gptq = (divergence(shape, tensors, run(m, tensors, shape, types=types), tokens) for m in ("none", "search", "gptq"))
    assert gptq < 0.85 * search < search < plain


def test_the_report_says_what_was_gained() -> None:
    tensors = random_tensors(SHAPE)
    types = weight_types(SHAPE, "BQ4", None, ["layers.0.mlp.*=F32", "layers.0.attention.q_proj=F16"])
    done = run("gptq", tensors, types=types)
    assert list(done.report) == [name for name, extents in SHAPE.tensors().items() if len(extents) == 2]
    for name, row in done.report.items():
        assert row.type == types[name]
        assert row.relative_rmse < {"BQ4": 0.2, "BQ8": 0.01, "F16": 1e-3, "F32": 1e-9}[row.type]
        if row.type == "BQ4":
            assert row.output_error is not None and row.output_error_rtn is not None
            assert 0 < row.output_error < row.output_error_rtn < 0.1
    assert done.tensors["layers.0.mlp.up_proj.weight"] is tensors["layers.0.mlp.up_proj.weight"]
    assert done.tokens == 80 * 24


def test_the_same_inputs_give_the_same_bits_on_any_number_of_cores(tmp_path: Path) -> None:
    tensors = random_tensors(SHAPE)
    here = blocks(run("gptq", tensors))
    assert here == blocks(run("gptq", tensors))
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hashlib, test_calibrate as t; "
        "print(hashlib.sha256(b''.join(t.blocks(t.run('gptq', t.random_tensors(t.SHAPE))).values())).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env={"OPENBLAS_NUM_THREADS": threads, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(hashes) == 1


def test_the_original_tensors_stay_as_they_were() -> None:
    tensors = random_tensors(SHAPE)
    before = {name: tensor.copy() for name, tensor in tensors.items()}
    run("gptq", tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, before[name])


def test_a_trained_model_predicts_nearer_to_fp32(micro_run: Path) -> None:
    shape, tensors, proto, _ = read_npy(micro_run / "export" / "npy")
    tokenizer = Tokenizer(proto)
    text, held_out = (open_tokens(micro_run / "tokens", split) for split in ("train", "val"))
    windows = calibration_windows(text, tokenizer, 20_000, shape.max_seq_len, 1)
    models = {
        method: {n: dequantize(t) for n, t in run(method, tensors, shape, windows=windows).tensors.items()}
        for method in ("none", "search", "gptq")
    }
    exact = Model(NumpyEngine(shape, tensors), tokenizer, shape, Sampling(), {})
    results = {
        method: compare(exact, Model(NumpyEngine(shape, weights), tokenizer, shape, Sampling(), {}), held_out, SilentProgress()).kl.mean
        for method, weights in models.items()
    }
    assert results["gptq"] < 0.6 * results["none"]
    assert results["gptq"] < results["search"]


def test_bad_input_is_one_clear_line() -> None:
    tensors = random_tensors(SHAPE)
    with pytest.raises(DataError, match=r"holds the token 300, but the model has 300 tokens"):
        run("gptq", tensors, windows=np.full((4, 24), 300))
    with pytest.raises(DataError, match="no calibration text"):
        run("search", tensors, windows=None)
    for bad, problem in (
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (1e6, "layers.1.mlp.up_proj.weight cannot be quantized"),
    ):
        damaged = {name: tensor.copy() for name, tensor in tensors.items()}
        damaged["layers.1.mlp.up_proj.weight"][3, 5] = bad
        with pytest.raises(BulletError, match=problem) as caught:
            run("gptq", damaged)
        assert "layers.1.mlp.up_proj.weight" in str(caught.value) and "\n" not in str(caught.value)
    loud = {**tensors, "layers.0.attention_norm.weight": np.full(64, 1e25, np.float32)}
    with pytest.raises(BulletError, match="infinite or undefined numbers on the calibration text"):
        run("gptq", loud)

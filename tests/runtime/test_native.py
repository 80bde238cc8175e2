"""Tests the native engine: every path of this processor against a float64 forward pass, and against itself."""

import ctypes
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import floats, random_weights
from test_engine import SHAPES

from bulletlm.errors import BulletError, BulletWarning, ConfigError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.quant.bq4 import Quantized, pack_bq4, pack_bq8
from bulletlm.runtime import Model, NumpyEngine, Sampling, generate, load, native, probe, sample
from bulletlm.runtime.native import NativeEngine, NativeSampler, Unavailable, available_paths
from bulletlm.runtime.random import seeded, state_of
from bulletlm.runtime.reference import reference
from bulletlm.shape import BQ4_BYTES, BQ8_BYTES, ModelShape

try:
    PATHS = available_paths()
except Unavailable as error:
    pytest.skip(f"no native engine: {error}", allow_module_level=True)

every_path = pytest.mark.parametrize("path", PATHS)

EXACT = 0.005
"""Largest error of a logit; the logits of these models have a standard deviation of about 1."""

SEED_SHAPE = ModelShape(4000, 256, 2, 4, 4, 1024, 256)
ODD_SHAPES = {
    **SHAPES,
    "head_dim 2": ModelShape(33, 32, 2, 16, 4, 32, 40),
    "head_dim 6": ModelShape(70, 96, 2, 16, 1, 64, 40),
    "head_dim 128": ModelShape(100, 256, 2, 2, 1, 288, 150),
    "head_dim 160": ModelShape(100, 160, 1, 1, 1, 32, 150),
    "wide": ModelShape(17, 32, 1, 2, 2, 1120, 100),
    "one token to say": ModelShape(1, 32, 1, 1, 1, 32, 20),
}


def tokens_for(shape: ModelShape, n: int | None = None) -> np.ndarray:
    return np.random.default_rng(7).integers(0, shape.vocab_size, min(n or 128, shape.max_seq_len))


@every_path
def test_seed_shape(path: str) -> None:
    weights = random_weights(SEED_SHAPE)
    tokens = tokens_for(SEED_SHAPE)
    expected = reference(SEED_SHAPE, floats(weights), tokens)
    assert expected.std() > 0.5
    engine = NativeEngine(SEED_SHAPE, weights, path)
    np.testing.assert_allclose(engine.forward(tokens, engine.new_cache()), expected, rtol=0, atol=EXACT)
    turbo = NativeEngine(SEED_SHAPE, weights, path, turbo=True)
    logits = turbo.forward(tokens, turbo.new_cache())
    assert divergence(expected, logits) < 3e-3
    assert np.abs(logits - expected).max() > EXACT  # it really is another mode


def divergence(expected: np.ndarray, logits: np.ndarray) -> float:
    """Mean KL divergence of the next-token distributions."""
    a, b = (x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True) for x in (expected, logits))
    return float((np.exp(a) * (a - b)).sum(-1).mean())


@every_path
@pytest.mark.parametrize("types", ["standard", "BQ4", "BQ8", "F16", "F32", "mixed"])
@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=list(ODD_SHAPES))
def test_every_shape_and_type(path: str, types: str, shape: ModelShape) -> None:
    weights = random_weights(shape, types, seed=1)
    tokens = tokens_for(shape)
    engine = NativeEngine(shape, weights, path)
    logits = engine.forward(tokens, engine.new_cache())
    np.testing.assert_allclose(logits, reference(shape, floats(weights), tokens), rtol=0, atol=EXACT)
    kv = engine.new_cache()
    one_by_one = np.stack([engine.prefill([token], kv) for token in tokens.tolist()])
    np.testing.assert_array_equal(one_by_one, logits)  # to the last bit


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    n_kv_heads = data.draw(st.integers(1, 4))
    n_heads = n_kv_heads * data.draw(st.integers(1, 3))
    head_dim = 2 * data.draw(st.integers(1, 40))
    dim = n_heads * head_dim
    if dim % 32 or dim > 640:
        return
    shape = ModelShape(
        vocab_size=data.draw(st.integers(1, 90)),
        dim=dim,
        n_layers=data.draw(st.integers(1, 2)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        hidden_dim=32 * data.draw(st.integers(1, 20)),
        max_seq_len=data.draw(st.integers(1, 150)),
        rope_theta=data.draw(st.sampled_from([1e-3, 500.0, 1e4, 1e6])),
        norm_eps=data.draw(st.sampled_from([1e-6, 1e-5, 0.1])),
        tied_embeddings=data.draw(st.booleans()),
    )
    weights = random_weights(shape, data.draw(st.sampled_from(["standard", "mixed", "BQ8"])), seed=2)
    tokens = tokens_for(shape)
    expected = reference(shape, floats(weights), tokens)
    for path in PATHS:
        engine = NativeEngine(shape, weights, path)
        np.testing.assert_allclose(engine.forward(tokens, engine.new_cache()), expected, rtol=0, atol=EXACT)


@every_path
@pytest.mark.parametrize("turbo", [False, True])
def test_threads_cuts_and_scoring_change_nothing(path: str, turbo: bool) -> None:
    shape = ModelShape(61, 64, 2, 4, 2, 96, 500)
    weights = random_weights(shape)
    tokens = tokens_for(shape, 450)
    alone = NativeEngine(shape, weights, path, turbo)
    expected = alone.forward(tokens, alone.new_cache())
    for threads in (2, 3, 7):
        team = NativeEngine(shape, weights, path, turbo, threads)
        np.testing.assert_array_equal(team.forward(tokens, team.new_cache()), expected)
        np.testing.assert_array_equal(team.prefill(tokens, team.new_cache()), expected[-1])
        np.testing.assert_array_equal(team.score(np.stack([tokens, tokens[::-1], tokens]))[[0, 2]], np.stack([expected, expected]))
        kv, parts = team.new_cache(), np.split(tokens, [1, 2, 15, 111, 112, 250])
        np.testing.assert_array_equal(np.concatenate([team.forward(part, kv) for part in parts]), expected)
        assert kv.length == 450 and kv.nbytes > 0
        kv.length = 100
        np.testing.assert_array_equal(team.prefill(tokens[100:120], kv), expected[119])


@every_path
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 65504.0, -65504.0])
def test_extreme_blocks(path: str, scale: float) -> None:
    """Every weight at the end of its grid: sums as large as they get, and scales down to subnormal ones."""
    shape = ModelShape(40, 64, 1, 2, 2, 64, 8)
    weights = random_weights(shape)
    rng = np.random.default_rng(3)
    for name, ends in (("layers.0.mlp.down_proj.weight", (0, 15)), ("layers.0.attention.v_proj.weight", (-128, 127))):
        extents = shape.tensors()[name]
        values = rng.choice(ends, extents)
        scales = np.full((extents[0], extents[1] // 32), scale, dtype=np.float16)
        four = ends[0] == 0
        weights[name] = Quantized(
            "BQ4" if four else "BQ8", pack_bq4(values.astype(np.uint8), scales) if four else pack_bq8(values.astype(np.int8), scales)
        )
    tokens = tokens_for(shape)
    engine = NativeEngine(shape, weights, path)
    logits = engine.forward(tokens, engine.new_cache())
    np.testing.assert_allclose(logits, reference(shape, floats(weights), tokens), rtol=0, atol=EXACT)


@every_path
def test_damaged_weights_are_reported(path: str) -> None:
    shape = ModelShape(40, 64, 1, 2, 2, 64, 8)
    weights = random_weights(shape, "F32")
    for name in ("layers.0.mlp.up_proj.weight", "layers.0.mlp.gate_proj.weight", "layers.0.mlp.down_proj.weight"):
        weights[name] = np.full(shape.tensors()[name], 3e38, dtype=np.float32)
    engine = NativeEngine(shape, weights, path)
    assert not np.isfinite(engine.prefill([1, 2], engine.new_cache())).all()
    rng = np.random.default_rng(0)
    for temperature in (0.0, 1.0):
        sampler = NativeSampler(Sampling(temperature=temperature), state_of(rng), [], 40)
        with pytest.raises(BulletError, match="weights are damaged"):
            engine.generate([1, 2], engine.new_cache(), sampler, [], 5)


def test_ids_lengths_and_capacities_are_checked() -> None:
    shape = ModelShape(61, 64, 1, 4, 4, 64, 24)
    engine = NativeEngine(shape, random_weights(shape))
    for tokens in ([-1], [61], [3, 1 << 40], []):
        with pytest.raises(ValueError, match="token ids must be from 0 to 60"):
            engine.forward(tokens, engine.new_cache())
        with pytest.raises(ValueError, match="token ids must be from 0 to 60"):
            engine.generate(tokens, engine.new_cache(), NativeSampler(Sampling(), seeded([0]), [], 61), [], 1)
    kv = engine.new_cache(capacity=4)
    engine.forward([1, 2, 3], kv)
    with pytest.raises(ValueError, match="5 positions do not fit into a context of 4"):
        engine.forward([4, 5], kv)
    with pytest.raises(ValueError, match="25 positions do not fit into a context of 24"):
        engine.score(np.zeros((2, 25), dtype=np.int64))
    assert kv.length == 3
    for length in (-1, 4):
        with pytest.raises(RuntimeError):
            kv.length = length
    for capacity in (-1, 25):
        with pytest.raises(RuntimeError):
            engine.new_cache(capacity)
    with pytest.raises(RuntimeError):
        NativeEngine(shape, random_weights(shape), path="another")


def test_the_library_itself_refuses_what_does_not_fit() -> None:
    """C checks again what Python has checked."""
    shape = ModelShape(61, 64, 1, 4, 4, 64, 24)
    engine = NativeEngine(shape, random_weights(shape))
    kv = engine.new_cache()
    ids, logits = np.array([3, 61], dtype=np.int32), np.empty(61, dtype=np.float32)
    lib = native.library()
    assert lib.bullet_forward(kv._handle, ids.ctypes.data, 2, 0, 1, logits.ctypes.data) == native.TOKEN
    assert lib.bullet_forward(kv._handle, ids.ctypes.data, 0, 0, 1, logits.ctypes.data) == native.TOKEN
    assert lib.bullet_score(engine._handle, ids.ctypes.data, 1 << 62, 1, 1, logits.ctypes.data) == native.ARGUMENT
    wrong = random_weights(ModelShape(61, 64, 1, 4, 4, 96, 24))
    with pytest.raises(RuntimeError, match="refused"):
        NativeEngine(shape, wrong)


def test_one_cache_is_for_one_thread() -> None:
    shape = ModelShape(61, 256, 4, 4, 4, 1024, 4000)
    engine = NativeEngine(shape, random_weights(shape))
    tokens, refused = np.arange(4000) % 61, list[str]()

    def use(what: Callable[[], object]) -> None:
        try:
            what()
        except RuntimeError as error:
            refused.append(str(error))

    while not refused:  # until both use it at the same time: one of them is refused
        kv = engine.new_cache()
        worker = threading.Thread(target=use, args=(partial(engine.prefill, tokens, kv),))
        worker.start()
        while worker.is_alive() and not refused:
            use(partial(setattr, kv, "length", 0))
            time.sleep(0.001)
        worker.join()
    assert refused == ["two threads use the same cache"]


def test_many_sequences_at_once_from_one_model() -> None:
    shape = ModelShape(61, 64, 2, 4, 2, 96, 100)
    engine = NativeEngine(shape, random_weights(shape), threads=2)
    tokens = np.random.default_rng(0).integers(0, 61, (6, 80))
    expected = engine.score(tokens)
    found: dict[int, np.ndarray] = {}

    def decode(row: int) -> None:
        kv = engine.new_cache()
        found[row] = np.stack([engine.prefill([token], kv) for token in tokens[row].tolist()])

    workers = [threading.Thread(target=decode, args=(row,)) for row in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(np.stack([found[row] for row in range(6)]), expected)


def test_a_long_context_takes_memory_as_it_comes() -> None:
    shape = ModelShape(40, 32, 2, 2, 1, 32, 1 << 20)
    weights = random_weights(shape)
    engine = NativeEngine(shape, weights)
    kv = engine.new_cache()
    assert kv.capacity == 1 << 20 and kv.nbytes == 0
    engine.prefill([1, 2, 3], kv)
    assert 0 < kv.nbytes < 100_000
    tokens = tokens_for(shape, 3)
    np.testing.assert_allclose(engine.score(tokens[None])[0], reference(shape, floats(weights), tokens), rtol=0, atol=EXACT)


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.01, 0.7, 1.0, 10.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 1000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.1, 3.0]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 0.0, 0.3]),
    frequency_penalty=st.sampled_from([-2.0, 0.0, 0.0, 0.1, 0.7]),
    logit_bias=st.sampled_from([{}, {}, {0: 1.5}, {0: float("-inf")}]),
    seed=st.integers(0, 1000),
)


@settings(max_examples=300, deadline=None)
@given(samplings, st.integers(0, 2**32), st.sampled_from([1, 2, 7, 50, 600]), st.booleans(), st.integers(0, 90))
def test_sampling_draws_what_numpy_draws(sampling: Sampling, seed: int, vocab_size: int, ties: bool, history_length: int) -> None:
    rng = np.random.default_rng(seed)
    history = rng.integers(0, vocab_size, history_length).tolist()
    ours, theirs = np.random.default_rng([sampling.seed, 5]), np.random.default_rng([sampling.seed, 5])
    sampler = NativeSampler(sampling, state_of(ours), history, vocab_size)
    if vocab_size == 1 and sampling.logit_bias.get(0, 0) < 0:
        return  # nothing is left to say
    for _ in range(5):
        logits = (rng.standard_normal(vocab_size) * 3).astype(np.float32)
        if ties:
            logits = np.round(logits)
        assert sampler.sample(logits) == sample(logits, history, sampling, theirs)


@every_path
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_generating_in_one_call_equals_step_by_step(path: str, temperature: float) -> None:
    shape = ModelShape(300, 64, 2, 4, 2, 96, 90)
    engine = NativeEngine(shape, random_weights(shape), path)
    sampling = Sampling(
        temperature=temperature, repetition_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.3, logit_bias={9: 2.0, 17: float("-inf")}
    )
    prompt = [5, 6, 7]
    rng, history, kv = np.random.default_rng(1), list(prompt), engine.new_cache()
    unread = prompt
    for _ in range(88):
        token = sample(engine.prefill(unread, kv), history, sampling, rng)
        history.append(token)
        unread = [token]

    kv, sampler = engine.new_cache(), NativeSampler(sampling, seeded([1]), prompt, 300)
    drawn = engine.generate(prompt, kv, sampler, [], 10)
    assert len(drawn) == 10
    drawn += engine.generate(drawn[-1:], kv, sampler, [], 1000)  # until the cache is full
    assert prompt + drawn == history and kv.length == 90

    stop = history[20]
    drawn = engine.generate(prompt, engine.new_cache(), NativeSampler(sampling, seeded([1]), prompt, 300), [stop, 299], 1000)
    assert drawn == history[3 : history.index(stop, 3) + 1]


def test_generate_gives_the_same_text_in_both_engines(model: Model, bullet_path: Path) -> None:
    """This includes contexts that overflow, stop tokens and short answers."""
    fast = load(bullet_path, engine="native")
    assert isinstance(fast.engine, NativeEngine) and isinstance(model.engine, NumpyEngine)
    prompt = model.tokenizer.encode("एका गावात एक शेतकरी राहत होता.")
    for sampling in (Sampling(temperature=0, max_tokens=70), Sampling(max_tokens=70, seed=3), Sampling(temperature=1.5, max_tokens=1)):
        assert list(generate(fast, prompt, sampling, [])) == list(generate(model, prompt, sampling, []))
    everything = list(generate(fast, prompt, Sampling(max_tokens=70, seed=3), []))
    assert list(generate(fast, prompt, Sampling(max_tokens=70, seed=3), [everything[12]])) == list(
        generate(model, prompt, Sampling(max_tokens=70, seed=3), [everything[12]])
    )


def test_loading(bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_bullet(bullet_path)
    loaded = load(bullet_path)
    assert isinstance(loaded.engine, NativeEngine) and loaded.engine.path == PATHS[0]
    tokens = np.array(loaded.tokenizer.encode("The old teacher walked"))
    expected = reference(file.shape, {name: file.dequantize(name).astype(np.float64) for name in file.tensors}, tokens)
    np.testing.assert_allclose(loaded.engine.forward(tokens, loaded.engine.new_cache()), expected, rtol=0, atol=EXACT)
    assert load(bullet_path, turbo=True).engine.turbo
    assert isinstance(load(bullet_path, engine="numpy").engine, NumpyEngine)
    with pytest.raises(ConfigError, match="engine is fast: it must be one of auto, native, numpy"):
        load(bullet_path, engine="fast")

    def broken(path: str, turbo: bool) -> None:
        raise native.Broken("its path x computes wrong numbers")

    monkeypatch.setattr(native, "self_test", broken)
    with pytest.warns(RuntimeWarning, match="native engine is not used: its path x computes wrong numbers"):
        assert isinstance(load(bullet_path).engine, NumpyEngine)
    with pytest.raises(BulletError, match="cannot be used: its path x"):
        load(bullet_path, engine="native")


@pytest.mark.skipif(len(PATHS) < 2, reason="this CPU supports only one kind of kernels")
def test_a_path_that_fails_leaves_its_place_to_the_next(bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, real = list[tuple[str, bool]](), native.self_test

    def first_broken(path: str, turbo: bool) -> None:
        tried.append((path, turbo))
        if path == PATHS[0]:
            raise native.Broken(f"its path {path} computes wrong numbers")
        real(path, turbo)

    monkeypatch.setattr(native, "self_test", first_broken)
    with pytest.warns(BulletWarning, match=f"its path {PATHS[0]} computes wrong numbers; {PATHS[1]} is used instead"):
        engine = load(bullet_path, turbo=True).engine
    assert isinstance(engine, NativeEngine) and engine.path == PATHS[1]
    assert tried == [(PATHS[0], True), (PATHS[1], True)]
    assert native.summary().startswith(f"native, {PATHS[1]}, since its path {PATHS[0]} computes wrong numbers")


def test_turbo_without_the_native_engine(bullet_path: Path) -> None:
    with pytest.warns(BulletWarning, match="turbo has no effect: numpy runs this model"):
        load(bullet_path, engine="numpy", turbo=True)


def test_without_the_library(bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.summary() == f"native, {PATHS[0]}"
    native.library.cache_clear()
    monkeypatch.setattr(native, "EXTENSION_SUFFIXES", [])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert isinstance(load(bullet_path).engine, NumpyEngine)
        with pytest.raises(BulletError, match="no native engine: it was not built"):
            load(bullet_path, engine="native")
        assert native.summary().startswith("numpy, since the native engine is not available: it was not built")
    finally:
        native.library.cache_clear()


@every_path
def test_self_test(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    native.self_test(path, False)
    native.self_test(path, True)
    native.self_test.cache_clear()
    right = native._probed
    monkeypatch.setattr(native, "_probed", lambda *arguments: [1.01 * logit for logit in right(*arguments)])
    with pytest.raises(native.Broken, match=f"path {path} computes wrong numbers"):
        native.self_test(path, False)
    native.self_test.cache_clear()


def test_the_logits_of_the_self_test() -> None:
    weights: dict[str, np.ndarray | Quantized] = {}
    for name, (type, data) in probe.weights().items():
        extents, stored = probe.SHAPE.tensors()[name], np.frombuffer(data, np.uint8)
        if type in ("BQ4", "BQ8"):
            weights[name] = Quantized(type, stored.reshape(extents[0], -1, BQ4_BYTES if type == "BQ4" else BQ8_BYTES))
        else:
            weights[name] = stored.view("<f2" if type == "F16" else "<f4").reshape(extents)
    assert {type for type, _ in probe.weights().values()} == {"BQ4", "BQ8", "F16", "F32"}
    expected = reference(probe.SHAPE, floats(weights), np.array(probe.TOKENS))
    np.testing.assert_allclose(probe.LOGITS, expected[-1], rtol=0, atol=1e-4)


def test_a_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library.cache_clear()
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    with pytest.raises(Unavailable, match="of another version"):
        native.library()
    native.library.cache_clear()


def test_structs_are_the_headers_structs() -> None:
    """The sizes of the types in bullet.h, from the compiler that built the library."""
    header = Path(native.__file__).with_name("native") / "bullet.h"
    structs = {"bullet_shape": native._CShape, "bullet_tensor": native._CTensor, "bullet_sampler": native._CSampler}
    checks = [f'_Static_assert(sizeof(struct {name}) == {ctypes.sizeof(ours)}, "{name}");' for name, ours in structs.items()]
    program = "\n".join([f'#include "{header}"', *checks, ""])
    command = ["cc", "-x", "c", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@every_path
@pytest.mark.parametrize("types", ["BQ4", "BQ8", "F16", "F32"])
def test_weights_that_are_not_finite_are_refused(path: str, types: str) -> None:
    shape = ModelShape(40, 64, 1, 2, 2, 64, 8)
    for bad in (np.nan, np.inf, -np.inf):
        weights = random_weights(shape, types)
        tensor = weights["layers.0.mlp.up_proj.weight"]
        if isinstance(tensor, Quantized):
            tensor.blocks.reshape(-1, tensor.blocks.shape[-1])[77, :2] = np.array([bad], dtype="<f2").view(np.uint8)
        else:
            tensor.reshape(-1)[-1] = bad
        with pytest.raises(native.NotFinite, match="NaN or infinite"):
            NativeEngine(shape, weights, path)


@pytest.mark.parametrize("threads", [-1, 0, 1025])
def test_threads_that_cannot_be(bullet_path: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads is {threads}: it must be from 1 to 1024"):
        load(bullet_path, threads=threads)


def test_hidden_states_in_parts(bullet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("native", "numpy"):
        model = load(bullet_path, engine=engine, threads=2)
        ids = [token % model.shape.vocab_size for token in range(model.shape.max_seq_len)]
        whole = model.engine.hidden(ids).sum(axis=0, dtype=np.float64)
        monkeypatch.setattr(type(model.engine), "part", 7)
        parts = list(model.hidden_sums(ids))
        assert len(parts) == -(-len(ids) // 7)
        np.testing.assert_allclose(sum(parts), whole, rtol=0, atol=1e-4 * len(ids))


@every_path
def test_hidden_states(path: str, tmp_path: Path) -> None:
    """Multiplied by the output matrix, they give the logits."""
    shape = ModelShape(61, 64, 2, 4, 2, 96, 150, tied_embeddings=False)
    weights = random_weights(shape, "F32")
    tokens = tokens_for(shape, 130)
    engine = NativeEngine(shape, weights, path, threads=2)
    hidden = engine.hidden(tokens)
    assert hidden.shape == (130, 64)
    logits = engine.forward(tokens, engine.new_cache())
    np.testing.assert_allclose(hidden @ weights["lm_head.weight"].T, logits, rtol=0, atol=1e-4)
    ours = NumpyEngine(shape, {name: np.asarray(tensor) for name, tensor in weights.items()}).hidden(tokens)
    np.testing.assert_allclose(hidden, ours, rtol=0, atol=EXACT)


def test_models_are_freed(bullet_path: Path) -> None:
    """Loading and dropping a model many times does not grow the process."""
    program = f"""
import resource
from bulletlm.runtime import Sampling, generate, load
def once():
    model = load({str(bullet_path)!r}, engine="native")
    list(generate(model, [1, 2], Sampling(max_tokens=40), []))
for _ in range(10): once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(60): once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 2000  # KB; a leak of one model and cache each would be three times that

"""Tests the numpy engine against a float64 implementation with plain loops, and against the training network."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bulletlm.errors import BulletError, FormatError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.npy import read_npy, write_npy
from bulletlm.runtime import Model, NumpyEngine, Sampling, load, native
from bulletlm.shape import ModelShape
from tiny_model import random_tensors

SHAPES = {
    "one head": ModelShape(50, 32, 1, 1, 1, 32, 24),
    "several heads": ModelShape(61, 64, 3, 4, 4, 160, 24),
    "grouped heads": ModelShape(40, 96, 2, 6, 2, 64, 24, rope_theta=500.0, norm_eps=1e-3),
    "one key/value head, untied": ModelShape(45, 64, 2, 8, 1, 96, 24, tied_embeddings=False),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))


def naive(shape: ModelShape, weights: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """docs/bullet-format.md, "The model", word for word: one position, one head, one pair at a time, in float64."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    d, group = shape.head_dim, shape.n_heads // shape.n_kv_heads

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / math.sqrt(sum(v * v for v in x) / len(x) + shape.norm_eps) * gain

    def rotate(head: np.ndarray, position: int) -> np.ndarray:
        out = np.empty(d)
        for i in range(d // 2):
            angle = position * shape.rope_theta ** (-2 * i / d)
            a, b = head[2 * i], head[2 * i + 1]
            out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    keys = [[] for _ in range(shape.n_layers)]
    values = [[] for _ in range(shape.n_layers)]
    logits = []
    for position, token in enumerate(tokens):
        x = w["token_embedding.weight"][token]
        for n in range(shape.n_layers):
            at = f"layers.{n}."
            a = norm(x, w[at + "attention_norm.weight"])
            q, k, v = (w[f"{at}attention.{name}_proj.weight"] @ a for name in "qkv")
            keys[n].append([rotate(k[h * d : h * d + d], position) for h in range(shape.n_kv_heads)])
            values[n].append([v[h * d : h * d + d] for h in range(shape.n_kv_heads)])
            heads = []
            for h in range(shape.n_heads):
                query = rotate(q[h * d : h * d + d], position)
                scores = [math.exp(query @ key[h // group] / math.sqrt(d)) for key in keys[n]]
                heads.append(sum(s * value[h // group] for s, value in zip(scores, values[n], strict=True)) / sum(scores))
            x = x + w[at + "attention.o_proj.weight"] @ np.concatenate(heads)
            m = norm(x, w[at + "mlp_norm.weight"])
            gate = w[at + "mlp.gate_proj.weight"] @ m
            x = x + w[at + "mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * (w[at + "mlp.up_proj.weight"] @ m))
        head = w["token_embedding.weight"] if shape.tied_embeddings else w["lm_head.weight"]
        logits.append(head @ norm(x, w["final_norm.weight"]))
    return np.array(logits)


@every_shape
def test_logits_equal_the_naive_implementation(shape: ModelShape) -> None:
    weights = random_tensors(shape)
    tokens = np.random.default_rng(1).integers(0, shape.vocab_size, shape.max_seq_len).tolist()
    expected = naive(shape, weights, tokens)
    assert expected.std() > 0.3  # a model with varied predictions
    logits = NumpyEngine(shape, weights).forward(tokens, NumpyEngine(shape, weights).new_cache())
    assert logits.dtype == np.float32 and logits.shape == (len(tokens), shape.vocab_size)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


@every_shape
def test_logits_equal_the_training_network(shape: ModelShape) -> None:
    import torch

    from bulletlm.train.model import Transformer

    weights = random_tensors(shape, seed=3)
    network = Transformer(shape).eval()
    network.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    tokens = np.random.default_rng(2).integers(0, shape.vocab_size, (3, shape.max_seq_len))
    with torch.no_grad():
        expected = network(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(NumpyEngine(shape, weights).score(tokens), expected, rtol=0, atol=1e-4)


@every_shape
@pytest.mark.parametrize("cuts", [(1,) * 24, (24,), (5, 1, 1, 10, 7), (23, 1)])
def test_decoding_with_a_cache_equals_scoring_at_once(shape: ModelShape, cuts: tuple[int, ...]) -> None:
    engine = NumpyEngine(shape, random_tensors(shape))
    tokens = np.random.default_rng(4).integers(0, shape.vocab_size, 24)
    expected = engine.score(tokens[None])[0]
    cache, other = engine.new_cache(), engine.new_cache()
    at = 0
    for cut in cuts:
        part = tokens[at : at + cut]
        np.testing.assert_allclose(engine.forward(part, cache), expected[at : at + cut], rtol=0, atol=1e-5)
        np.testing.assert_allclose(engine.prefill(part.tolist(), other), expected[at + cut - 1], rtol=0, atol=1e-5)
        at += cut
        assert cache.length == other.length == at


def test_sequences_of_a_batch_do_not_touch_each_other() -> None:
    shape = SHAPES["grouped heads"]
    engine = NumpyEngine(shape, random_tensors(shape))
    tokens = np.random.default_rng(5).integers(0, shape.vocab_size, (4, 24))
    together = engine.score(tokens)
    assert together.shape == (4, 24, shape.vocab_size)
    for row, logits in zip(tokens, together, strict=True):
        np.testing.assert_allclose(engine.score(row[None])[0], logits, rtol=0, atol=1e-5)


def test_long_prompts_go_in_chunks_and_caches_grow() -> None:
    shape = ModelShape(40, 32, 2, 2, 1, 32, 700)
    engine = NumpyEngine(shape, random_tensors(shape))
    tokens = np.random.default_rng(6).integers(0, 40, 600)
    cache, slow = engine.new_cache(), engine.new_cache()
    at_once = engine.forward(tokens, cache)
    one_by_one = np.stack([engine.prefill([token], slow) for token in tokens])
    np.testing.assert_allclose(at_once, one_by_one, rtol=0, atol=2e-5)
    assert slow.keys.shape[3] <= 700


def test_a_cache_takes_no_memory_before_it_is_used() -> None:
    shape = ModelShape(40, 32, 2, 2, 1, 32, 1 << 20)
    engine = NumpyEngine(shape, random_tensors(shape))
    cache = engine.new_cache()
    engine.forward([1, 2, 3], cache)
    assert cache.capacity == 1 << 20 and cache.keys.nbytes < 100_000


def test_going_back_in_the_cache() -> None:
    shape = SHAPES["several heads"]
    engine = NumpyEngine(shape, random_tensors(shape))
    cache = engine.new_cache()
    engine.forward([1, 2, 3, 4, 5], cache)
    cache.length = 2
    again = engine.forward([9, 10], cache)
    np.testing.assert_allclose(again, engine.score(np.array([[1, 2, 9, 10]]))[0, 2:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [[-1], [61], [3, 1 << 40], []])
def test_ids_outside_the_vocabulary(tokens: list[int]) -> None:
    shape = SHAPES["several heads"]
    engine = NumpyEngine(shape, random_tensors(shape))
    with pytest.raises(ValueError, match="token ids must be from 0 to 60"):
        engine.forward(tokens, engine.new_cache())


def test_a_full_context() -> None:
    shape = SHAPES["one head"]
    engine = NumpyEngine(shape, random_tensors(shape))
    cache = engine.new_cache(capacity=4)
    engine.forward([1, 2, 3], cache)
    with pytest.raises(ValueError, match="5 positions do not fit into a context of 4"):
        engine.forward([4, 5], cache)
    assert cache.length == 3


def test_load_a_bullet(bullet_path: Path, model: Model) -> None:
    file = open_bullet(bullet_path)
    assert model.shape == file.shape and model.header == file.header
    assert model.sampling == Sampling(temperature=0.9, top_k=12, max_tokens=7)
    tokens = model.tokenizer.encode("एका गावात एक")
    expected = naive(model.shape, {name: file.dequantize(name) for name in file.tensors}, tokens)
    logits = model.engine.forward(tokens, model.engine.new_cache())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


def test_load_a_folder(tmp_path: Path, model: Model) -> None:
    weights = random_tensors(model.shape)
    write_npy(tmp_path / "npy", model.shape, weights, model.tokenizer.proto, {"sampling": {"top_p": 0.5}})
    loaded = load(str(tmp_path / "npy"))
    assert loaded.shape == model.shape and loaded.sampling == Sampling(top_p=0.5)
    tokens = loaded.tokenizer.encode("The old teacher")
    expected = naive(model.shape, weights, tokens)
    np.testing.assert_allclose(loaded.engine.forward(tokens, loaded.engine.new_cache()), expected, rtol=0, atol=2e-5)


def test_a_folder_whose_tokenizer_is_another(tmp_path: Path, model: Model) -> None:
    shape = ModelShape(300, 32, 1, 1, 1, 32, 8)
    write_npy(tmp_path / "npy", shape, random_tensors(shape), model.tokenizer.proto, {})
    with pytest.raises(FormatError, match="tokenizer has 480 pieces, but vocab_size is 300"):
        load(tmp_path / "npy")
    (tmp_path / "npy" / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match=r"npy.tokenizer\.model: the tokenizer is not"):
        load(tmp_path / "npy")


def test_what_cannot_be_loaded(tmp_path: Path, bullet_path: Path) -> None:
    with pytest.raises(BulletError, match="nothing"):
        load(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FormatError, match=r"manifest\.json"):
        load(empty)
    damaged = tmp_path / "damaged.bullet"
    shutil.copy(bullet_path, damaged)
    region = open_bullet(bullet_path).tensors["layers.1.mlp.up_proj.weight"]
    with open(damaged, "r+b") as file:
        file.seek(region.offset)
        file.write(b"\xff\xff")
    with pytest.raises(FormatError, match=r"damaged\.bullet: tensor layers\.1\.mlp\.up_proj\.weight"):
        load(damaged)


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_nothing_heavy_is_imported(bullet_path: Path, engine: str) -> None:
    heavy = ["torch", "pydantic", "rich", "cyclopts", "matplotlib", "safetensors", "sentencepiece"]
    if engine == "native":
        try:
            native.library()
        except native.Unavailable as error:
            pytest.skip(str(error))
        heavy += ["numpy", "hashlib", "importlib.metadata"]
    program = f"""
import sys
from bulletlm.runtime import Sampling, Session, load
model = load({str(bullet_path)!r}, engine={engine!r})
for token in Session(model).generate(model.tokenizer.encode("एक"), Sampling(max_tokens=3), stop_ids=()):
    print(token.id, end=" ")
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip().endswith(" []") and done.stderr == ""


@pytest.mark.filterwarnings("error")
def test_damaged_weights_show_in_the_logits_and_in_no_warning() -> None:
    shape = SHAPES["one head"]
    tensors = random_tensors(shape)
    engine = NumpyEngine(shape, tensors | {"final_norm.weight": np.full(shape.dim, 3e38, np.float32)})
    for logits in (engine.forward([1], engine.new_cache()), engine.prefill([1], engine.new_cache()), engine.score(np.ones((1, 1), int))):
        assert not np.isfinite(logits).all()


def test_the_folder_keeps_the_weights(tmp_path: Path) -> None:
    shape = SHAPES["one head"]
    weights = random_tensors(shape)
    write_npy(tmp_path / "npy", shape, weights, b"proto", {})
    for name, tensor in read_npy(tmp_path / "npy")[1].items():
        np.testing.assert_array_equal(tensor, weights[name])

"""Tests the comparison of two models against an independent float64 computation of the whole network."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from micro_run import SHAPE, random_tensors

from bulletlm.data.tokens import TokenFile, open_tokens
from bulletlm.errors import BulletError
from bulletlm.evaluate.compare import clustered_mean, compare
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.npy import read_npy, write_npy
from bulletlm.progress import SilentProgress
from bulletlm.runtime import load
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer
from paths import SAMPLE_CORPUS


def network(shape: ModelShape, tensors: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Log-probabilities float64[n, vocab] of one window, computed from the definition of the architecture."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + shape.norm_eps) * w[name]

    def rotate(x: np.ndarray) -> np.ndarray:
        angles = np.arange(len(x))[:, None] * shape.rope_theta ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = w["token_embedding.weight"][ids]
    for n in range(shape.n_layers):
        h = norm(x, f"layers.{n}.attention_norm.weight")
        q, k, v = (h @ w[f"layers.{n}.attention.{p}_proj.weight"].T for p in "qkv")
        heads = []
        for i in range(shape.n_heads):
            own = slice(i * shape.head_dim, (i + 1) * shape.head_dim)
            j = i // (shape.n_heads // shape.n_kv_heads)
            shared = slice(j * shape.head_dim, (j + 1) * shape.head_dim)
            scores = rotate(q[:, own]) @ rotate(k[:, shared]).T / math.sqrt(shape.head_dim)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, shared])
        x = x + np.concatenate(heads, -1) @ w[f"layers.{n}.attention.o_proj.weight"].T
        h = norm(x, f"layers.{n}.mlp_norm.weight")
        gate = h @ w[f"layers.{n}.mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"layers.{n}.mlp.up_proj.weight"].T)) @ w[f"layers.{n}.mlp.down_proj.weight"].T
    logits = norm(x, "final_norm.weight") @ w["token_embedding.weight"].T
    return logits - np.log(np.exp(logits - logits.max()).sum(-1, keepdims=True)) - logits.max()


def test_equals_float64(run_folder: Path) -> None:
    file = open_tokens(run_folder / "tokens", "val")
    result = compare(load(run_folder / "export" / "npy"), load(run_folder / "model.bullet", engine="numpy"), file, SilentProgress())

    shape, exact, _, _ = read_npy(run_folder / "export" / "npy")
    bullet = open_bullet(run_folder / "model.bullet")
    stored = {name: bullet.dequantize(name) for name in exact}
    length, ids = shape.max_seq_len, np.array(file.tokens, np.int64)
    rows: list[tuple[int, str, float, float, float, bool, float]] = []
    for start in range(0, len(ids) - 1, length):
        inputs = ids[start : start + length][: len(ids) - 1 - start]
        log_a, log_b = network(shape, exact, inputs), network(shape, stored, inputs)
        for j in range(len(inputs)):
            at = start + j + 1
            language = next(d["language"] for d in file.info["documents"] if d["start"] <= at < d["end"])
            p, q = log_a[j], log_b[j]
            kl = float((np.exp(p) * (p - q)).sum())
            rows.append((start, language, -p[ids[at]], -q[ids[at]], kl, p.argmax() == q.argmax(), 0.0))

    for language, part in ((None, result), ("mr", result.by_language["mr"]), ("en", result.by_language["en"])):
        chosen = [row for row in rows if language in (None, row[1])]
        assert part.a.tokens == part.b.tokens == len(chosen)
        assert part.a.loss == pytest.approx(np.mean([row[2] for row in chosen]), abs=2e-6)
        assert part.b.loss == pytest.approx(np.mean([row[3] for row in chosen]), abs=2e-6)
        assert part.loss_delta.mean == pytest.approx(np.mean([row[3] - row[2] for row in chosen]), abs=2e-6)
        assert part.kl.mean == pytest.approx(np.mean([row[4] for row in chosen]), rel=1e-4)
        assert part.top1_agreement.mean == pytest.approx(np.mean([row[5] for row in chosen]), abs=2 / len(chosen))
        assert part.windows == len({row[0] for row in chosen})
    assert result.perplexity_change == pytest.approx(result.b.perplexity / result.a.perplexity - 1)
    assert result.kl.mean > 1e-4 and 0 < result.top1_agreement.mean < 1 and result.max_logit_difference > 0.01
    assert set(result.by_source) == {"talk", "thoughts"}
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_model_equals_itself(run_folder: Path) -> None:
    model = load(run_folder / "model.bullet")
    result = compare(model, model, open_tokens(run_folder / "tokens", "val"), SilentProgress())
    assert result.loss_delta.mean == result.kl.mean == result.max_logit_difference == 0
    assert result.loss_delta.se == 0
    assert result.top1_agreement.mean == 1


def test_standard_error_of_equal_windows_is_that_of_their_means() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(40, 25)) + random.normal(size=(40, 1))
    got = clustered_mean(values.ravel(), np.repeat(np.arange(40), 25))
    assert got.mean == pytest.approx(values.mean())
    assert got.se == pytest.approx(values.mean(1).std(ddof=1) / math.sqrt(40))


def test_standard_error_covers_the_truth() -> None:
    """For windows of unequal length with correlated tokens, 95 of 100 intervals of two standard errors contain the true mean, 0."""
    random = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        sizes = random.integers(5, 60, size=50)
        values = np.repeat(random.normal(size=50), sizes) + random.normal(size=sizes.sum())
        got = clustered_mean(values, np.repeat(np.arange(50), sizes))
        assert got.se is not None
        inside += abs(got.mean) < 2 * got.se
    assert 0.91 < inside / 400 < 0.98


def test_one_window_has_no_error() -> None:
    assert clustered_mean(np.ones(5), np.zeros(5, np.int64)).se is None


def test_other_tokenizer(run_folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = open_tokens(run_folder / "tokens", "val")
    ours = load(run_folder / "export" / "npy")
    text = (SAMPLE_CORPUS / "explanations.mr.txt").read_text(encoding="utf-8").split("\n\n")[:40]
    for vocab, says in ((400, "the first has 600 tokens and the second 400"), (600, "in the first and")):
        shape = replace(SHAPE, vocab_size=vocab)
        other = train_tokenizer(text, vocab, 1, SilentProgress())
        write_npy(tmp_path / str(vocab), shape, random_tensors(shape, 1), other, {})
        with pytest.raises(BulletError, match=says):
            compare(ours, load(tmp_path / str(vocab)), file, SilentProgress())


def test_other_shape_same_tokenizer(run_folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The two models may have different shapes: the windows have the length of the shorter context."""
    shape = ModelShape(vocab_size=600, dim=64, n_layers=1, n_heads=4, n_kv_heads=4, hidden_dim=32, max_seq_len=20, tied_embeddings=False)
    write_npy(tmp_path / "other", shape, random_tensors(shape, 9), tokenizer.proto, {})
    file = open_tokens(run_folder / "tokens", "val")
    result = compare(load(run_folder / "export" / "npy"), load(tmp_path / "other"), file, SilentProgress())
    assert result.windows == math.ceil((len(file.tokens) - 1) / 20)
    assert result.kl.mean > 0.1


def test_damaged_weights(run_folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = load(run_folder / "export" / "npy")
    huge = {**random_tensors(SHAPE, 5), "final_norm.weight": np.full(SHAPE.dim, 3e38, np.float32)}
    write_npy(tmp_path / "huge", SHAPE, huge, tokenizer.proto, {})
    file = open_tokens(run_folder / "tokens", "val")
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(BulletError, match="the second model computes NaN"):
        compare(model, load(tmp_path / "huge"), TokenFile(file.tokens[:100], None, file.info), SilentProgress())

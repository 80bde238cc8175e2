"""Tests loss, perplexity and bits per byte against sums in plain Python."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bulletlm.data.tokens import TokenFile, open_tokens
from bulletlm.errors import BulletError, DataError
from bulletlm.evaluate import perplexity
from bulletlm.evaluate.perplexity import Score, log_softmax, score, window_batches
from bulletlm.progress import SilentProgress
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer

VOCAB = 600


@dataclass
class Bigram:
    """Logits that depend on the previous token and on the place in the window."""

    table: np.ndarray
    shape: ModelShape

    def score(self, tokens: np.ndarray) -> np.ndarray:
        assert tokens.shape[1] <= self.shape.max_seq_len
        places = np.arange(tokens.shape[1], dtype=np.float32)[None, :, None] * 0.01
        return self.table[tokens] * (1 + places)


def bigram(length: int, seed: int = 0) -> Bigram:
    table = np.random.default_rng(seed).normal(size=(VOCAB, VOCAB)).astype(np.float32)
    return Bigram(table, ModelShape(VOCAB, 32, 1, 1, 1, 32, length))


def token_file(ids: np.ndarray, learn: np.ndarray | None = None) -> TokenFile:
    half = len(ids) // 2
    documents = [
        {"start": 0, "end": half, "bytes": 0, "language": "mr", "source": "one"},
        {"start": half, "end": len(ids), "bytes": 0, "language": "en", "source": "two"},
    ]
    return TokenFile(ids.astype(np.uint16), learn, {"tokens": len(ids), "bytes": 0, "documents": documents})


def by_hand(engine: Bigram, file: TokenFile, length: int) -> list[float]:
    """Nats of every token but the first, one by one."""
    nats = []
    for i in range(1, len(file.tokens)):
        logits = (engine.table[file.tokens[i - 1]] * (1 + np.float32((i - 1) % length) * np.float32(0.01))).tolist()
        nats.append(math.log(math.fsum(math.exp(x) for x in logits)) - logits[int(file.tokens[i])])
    return nats


@pytest.mark.parametrize("count", [2, 16, 17, 18, 100, 129])
def test_equals_sums_by_hand(count: int, tokenizer: Tokenizer) -> None:
    engine = bigram(16)
    file = token_file(np.random.default_rng(count).integers(VOCAB, size=count))
    nats = by_hand(engine, file, 16)
    sizes = [len(tokenizer.decode_bytes([int(i)])) for i in file.tokens[1:]]
    scores = score(engine, file, tokenizer, SilentProgress())
    assert scores.total.nats == pytest.approx(sum(nats), rel=1e-6)
    assert scores.total.tokens == count - 1
    assert scores.total.bytes == sum(sizes)
    assert scores.total.perplexity == pytest.approx(math.exp(sum(nats) / (count - 1)), rel=1e-6)
    # A position belongs to the document of its target: the first token of the second document is English.
    cut = count // 2 - 1
    assert scores.by_language["en"].nats == pytest.approx(sum(nats[cut:]), rel=1e-6)
    assert scores.by_source["two"].bytes == sum(sizes[cut:])
    if cut:
        assert scores.by_language["mr"].nats == pytest.approx(sum(nats[:cut]), rel=1e-6)
    else:
        assert "mr" not in scores.by_language


def test_batches_do_not_matter(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bigram(16)
    file = token_file(np.random.default_rng(3).integers(VOCAB, size=400))
    at_once = score(engine, file, tokenizer, SilentProgress())
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", 1)
    assert score(engine, file, tokenizer, SilentProgress()).total.nats == pytest.approx(at_once.total.nats, rel=1e-12)


def test_windows_cover_every_target_once() -> None:
    for count in range(2, 60):
        tokens = np.arange(count, dtype=np.uint16)
        seen = []
        for start, inputs, outputs in window_batches(tokens, 8, VOCAB):
            assert outputs.ravel()[0] == start + 1
            assert (outputs == inputs + 1).all() and (inputs[:, 0] % 8 == 0).all()
            seen += outputs.ravel().tolist()
        assert seen == list(range(1, count))


def test_only_learned_tokens_count(tokenizer: Tokenizer) -> None:
    engine = bigram(16)
    random = np.random.default_rng(4)
    ids, learn = random.integers(VOCAB, size=100), random.integers(2, size=100).astype(np.uint8)
    file = token_file(ids, learn)
    nats = by_hand(engine, file, 16)
    total = score(engine, file, tokenizer, SilentProgress()).total
    assert total.nats == pytest.approx(sum(n for n, wanted in zip(nats, learn[1:], strict=True) if wanted), rel=1e-6)
    assert total.tokens == learn[1:].sum()
    assert total.bytes == sum(len(tokenizer.decode_bytes([int(i)])) for i, wanted in zip(ids[1:], learn[1:], strict=True) if wanted)


def test_bytes_are_those_of_the_text(run_folder: Path, tokenizer: Tokenizer) -> None:
    """Summed over tokens they equal the UTF-8 size of the documents that the tokens stage counted."""
    file = open_tokens(run_folder / "tokens", "val")
    scores = score(bigram(48), file, tokenizer, SilentProgress())
    assert scores.total.bytes == file.info["bytes"]
    assert scores.by_language["mr"].bytes == file.info["by_language"]["mr"]["bytes"]
    assert scores.total.bits_per_byte == pytest.approx(scores.total.nats / math.log(2) / file.info["bytes"])


def test_log_softmax_of_large_logits() -> None:
    log_p = log_softmax(np.array([[3e38, -3e38, 3e38]], np.float32))
    assert log_p[0, 0] == pytest.approx(math.log(0.5))
    assert log_p[0, 1] < -1e38


def test_absurd_loss_keeps_a_finite_perplexity() -> None:
    assert math.isfinite(Score(1e9, 10, 10).perplexity)
    assert Score(1.0, 1, 0).bits_per_byte is None


def test_errors(tokenizer: Tokenizer) -> None:
    engine = bigram(16)
    with pytest.raises(DataError, match="nothing to predict"):
        score(engine, token_file(np.array([1])), tokenizer, SilentProgress())
    with pytest.raises(DataError, match="nothing to predict"):
        score(engine, token_file(np.arange(9), np.zeros(9, np.uint8)), tokenizer, SilentProgress())
    with pytest.raises(DataError, match="another vocabulary"):
        score(engine, token_file(np.array([1, 5, VOCAB])), tokenizer, SilentProgress())
    engine.table[7] = np.nan
    with pytest.raises(BulletError, match="computes NaN or infinity"):
        score(engine, token_file(np.array([1, 7, 9])), tokenizer, SilentProgress())

"""How well a model predicts held-out text: loss, perplexity and bits per byte.

The held-out stream is cut into consecutive windows of L = `max_seq_len` inputs: window i has the inputs tokens[i L : i L + L] and as
targets the same tokens shifted by one. The last window may be shorter. The training loop validates on the same windows, so both
give the same loss. Logits are float32, all sums float64.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError, DataError
from bulletlm.evaluate.report_types import Quality
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape
from bulletlm.text.tokenizer import Tokenizer

LOGITS_AT_ONCE = 1 << 22
"""Largest number of logits in a batch of windows: 16 MB in float32, 32 MB in float64."""


class Scorer(Protocol):
    """A model with its shape, and logits float32[batch, n, vocab] for tokens int64[batch, n]."""

    @property
    def shape(self) -> ModelShape: ...

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Score:
    """Sum of -ln p, in nats, over `tokens` tokens that stand for `bytes` bytes of text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens with the same uncertainty. Capped at e^700, near the largest float."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte of text, comparable between vocabularies; None without text."""
        return self.nats / math.log(2) / self.bytes if self.bytes else None

    def to_dict(self) -> Quality:
        """Plain values for JSON."""
        return {"loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


@dataclass(frozen=True)
class Scores:
    """The score of a file, in total and by language and source of its documents."""

    total: Score
    by_language: dict[str, Score]
    by_source: dict[str, Score]


@dataclass(frozen=True)
class Targets:
    """The targets in a file of n + 1 tokens; every array has length n.

    Attributes:
        ids: int64, the tokens.
        counted: bool, False for tokens without loss.
        bytes: int64, UTF-8 bytes of the token's text (0 for special tokens).
        language, source: labels of the document that contains the token.
        document: int64, number of that document.
    """

    ids: NDArray[np.int64]
    counted: NDArray[np.bool_]
    bytes: NDArray[np.int64]
    language: NDArray[np.str_]
    source: NDArray[np.str_]
    document: NDArray[np.int64]

    def score(self, nats: NDArray[np.float64], chosen: NDArray[np.bool_]) -> Score:
        """Sum float64[n] nats over the `chosen` positions."""
        return Score(float(nats[chosen].sum()), int(chosen.sum()), int(self.bytes[chosen].sum()))


def score(engine: Scorer, file: TokenFile, tokenizer: Tokenizer, progress: Progress, length: int | None = None) -> Scores:
    """Score every token of `file`, predicted from the tokens before it in its window.

    Memory: a batch of logits (LOGITS_AT_ONCE) and about 50 bytes per token of the file.

    Args:
        length: tokens in a window, at most the context of the model; None: the context.

    Raises:
        DataError: the file has nothing to predict, or was made for another vocabulary.
        BulletError: the model computes NaN or infinity.
    """
    targets, nats = score_tokens(engine, file, tokenizer, progress, length)
    return Scores(
        targets.score(nats, targets.counted),
        {label: targets.score(nats, chosen) for label, chosen in groups(targets.language, targets.counted)},
        {label: targets.score(nats, chosen) for label, chosen in groups(targets.source, targets.counted)},
    )


def score_tokens(
    engine: Scorer, file: TokenFile, tokenizer: Tokenizer, progress: Progress, length: int | None = None
) -> tuple[Targets, NDArray[np.float64]]:
    """The targets of `file` and -ln p of each of them, float64[n]; see `score`."""
    targets = read_targets(file, tokenizer, engine.shape.vocab_size)
    nats = np.empty(len(targets.ids))
    with progress.task("Scoring", len(nats)) as bar:
        for start, inputs, outputs in window_batches(file.tokens, length or engine.shape.max_seq_len, engine.shape.vocab_size):
            log_p = log_softmax(finite_logits(engine, inputs, "the model"))
            nats[start : start + outputs.size] = -np.take_along_axis(log_p, outputs[..., None], -1).ravel()
            bar.advance(outputs.size)
    return targets, nats


def read_targets(file: TokenFile, tokenizer: Tokenizer, vocab_size: int) -> Targets:
    """The targets of `file`: every token except the first, which has no predecessor.

    Raises:
        DataError: the file has nothing to predict, or was made for another vocabulary than `vocab_size`.
    """
    ids = np.asarray(file.tokens[1:], dtype=np.int64)
    counted = np.ones(len(ids), dtype=bool) if file.learn is None else np.asarray(file.learn[1:]) != 0
    if not counted.any():
        raise DataError("the validation tokens have nothing to predict: increase data.val_tokens and run the data stage again")
    if tokenizer.vocab_size != vocab_size or int(ids.max()) >= vocab_size:
        raise DataError(f"the tokens belong to another vocabulary than the model's {vocab_size:,} tokens: run the tokens stage again")
    documents = file.documents
    document = np.searchsorted([d["start"] for d in documents], np.arange(1, len(ids) + 1), side="right") - 1
    return Targets(
        ids=ids,
        counted=counted,
        bytes=np.array([len(tokenizer.decode_bytes([i])) for i in range(vocab_size)])[ids],
        language=np.array([d["language"] for d in documents])[document],
        source=np.array([d["source"] for d in documents])[document],
        document=document,
    )


def window_batches(
    tokens: NDArray[np.unsignedinteger[Any]], length: int, vocab_size: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Cut a token stream into batches of windows.

    Yields:
        (start, inputs int64[batch, n], outputs int64[batch, n]): outputs.ravel() is tokens[start + 1 : start + 1 + batch n].
    """
    whole, rest = divmod(len(tokens) - 1, length)
    at_once = max(1, LOGITS_AT_ONCE // (length * vocab_size))
    cuts = [(first * length, min(at_once, whole - first), length) for first in range(0, whole, at_once)]
    if rest:
        cuts.append((whole * length, 1, rest))
    for start, batch, n in cuts:
        part = np.asarray(tokens[start : start + batch * n + 1], dtype=np.int64)
        yield start, part[:-1].reshape(batch, n), part[1:].reshape(batch, n)


def groups(labels: NDArray[np.str_], counted: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each label with counted positions, in alphabetical order, and the mask of these positions."""
    for label in np.unique(labels[counted]):
        yield str(label), counted & (labels == label)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities along the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def finite_logits(engine: Scorer, inputs: NDArray[np.int64], which: str) -> NDArray[np.float32]:
    """Logits after each input, int64[batch, n]; raises a BulletError that names the model (`which`) for NaN or infinity."""
    logits = engine.score(inputs)
    if not np.isfinite(logits).all():
        raise BulletError(f"{which} computes NaN or infinity: its weights are damaged; run the export and build stages again")
    return logits

"""Comparing two models on the same held-out text, token by token.

Both models see the same windows, so the differences are paired. The standard errors are those of the differences, which vary far
less than the losses themselves. Tokens of one window are not independent, so the windows are the unit of the standard errors. The
95 % intervals are those of a bootstrap over documents (intervals.py).
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bulletlm.data.tokens import TokenFile
from bulletlm.errors import BulletError
from bulletlm.evaluate.intervals import Bootstrap, Interval, choose_units
from bulletlm.evaluate.perplexity import Score, Targets, finite_logits, groups, log_softmax, read_targets, window_batches
from bulletlm.evaluate.report_types import ComparisonValues, EstimateValues
from bulletlm.progress import Progress
from bulletlm.runtime import Model
from bulletlm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens and its standard error over windows (None if there is only one window)."""

    mean: float
    se: float | None

    def to_dict(self) -> EstimateValues:
        """Plain values, for JSON."""
        return {"mean": self.mean, "se": self.se}


@dataclass(frozen=True)
class Comparison:
    """Model B against model A.

    Attributes:
        windows: number of windows.
        a, b: how well each model predicts the text.
        loss_delta: loss of B minus loss of A, nats per token.
        kl: KL(A || B) of the next-token distributions, nats per token.
        top1_agreement: share of positions at which both have the same most likely token.
        max_logit_difference: largest absolute difference of any logit.
        intervals: name -> the figure with its 95 % interval: loss, perplexity and bits_per_byte of both models (a_loss, b_loss, ...),
            loss_delta, perplexity_change, bits_per_byte_change, kl, top1_agreement.
        units: what the intervals resample, and their number.
        by_language, by_source: the same for the documents of one language or source.
    """

    windows: int
    a: Score
    b: Score
    loss_delta: Estimate
    kl: Estimate
    top1_agreement: Estimate
    max_logit_difference: float
    intervals: dict[str, Interval]
    units: tuple[str, int]
    by_language: dict[str, "Comparison"] = field(default_factory=dict)
    by_source: dict[str, "Comparison"] = field(default_factory=dict)

    @property
    def perplexity_change(self) -> float:
        """Relative change: 0.01 means that B's perplexity is 1 % higher. Capped like the perplexity."""
        return math.exp(min(self.loss_delta.mean, 700.0)) - 1

    def to_dict(self) -> ComparisonValues:
        """Plain values for JSON, without the groups."""
        return {
            "tokens": self.a.tokens,
            "bytes": self.a.bytes,
            "windows": self.windows,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "loss_delta": self.loss_delta.to_dict(),
            "perplexity_change": self.perplexity_change,
            "kl": self.kl.to_dict(),
            "top1_agreement": self.top1_agreement.to_dict(),
            "max_logit_difference": self.max_logit_difference,
            "intervals": {name: interval.to_dict() for name, interval in self.intervals.items()},
            "units": {"kind": self.units[0], "count": self.units[1]},
        }


@dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """The losses of both models on every target of a token file; arrays have one entry per target.

    Attributes:
        length: tokens in a window.
        nats_a, nats_b: float64, -ln p of the target.
        counted: bool, False for tokens without loss.
        bytes: int64, UTF-8 bytes of the target's text.
        document, window: int64, number of the document and of the window of the target.
    """

    length: int
    nats_a: NDArray[np.float64]
    nats_b: NDArray[np.float64]
    counted: NDArray[np.bool_]
    bytes: NDArray[np.int64]
    document: NDArray[np.int64]
    window: NDArray[np.int64]


def compare(a: Model, b: Model, file: TokenFile, progress: Progress) -> Comparison:
    """Score both models on `file`; see `compare_tokens`."""
    return compare_tokens(a, b, file, progress)[0]


def compare_tokens(a: Model, b: Model, file: TokenFile, progress: Progress) -> tuple[Comparison, TokenLosses]:
    """Score both models on `file` in one pass, in windows as long as the shorter of the two contexts; also give the single losses.

    Raises:
        BulletError: the models have different vocabularies (the message names the first difference), or one of them computes NaN
            or infinity.
        DataError: the file has no tokens to predict, or was made for another vocabulary.
    """
    check_same_vocabulary(a.tokenizer, b.tokenizer)
    targets = read_targets(file, a.tokenizer, a.shape.vocab_size)
    length = min(a.shape.max_seq_len, b.shape.max_seq_len)
    n = len(targets.ids)
    nats_a, nats_b, kl, agrees, difference = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    with progress.task("Comparing", n) as bar:
        for start, inputs, outputs in window_batches(file.tokens, length, a.shape.vocab_size):
            here = slice(start, start + outputs.size)
            logits_a = finite_logits(a.engine, inputs, "the first model")
            logits_b = finite_logits(b.engine, inputs, "the second model")
            log_a, log_b = log_softmax(logits_a), log_softmax(logits_b)
            nats_a[here] = -np.take_along_axis(log_a, outputs[..., None], -1).ravel()
            nats_b[here] = -np.take_along_axis(log_b, outputs[..., None], -1).ravel()
            kl[here] = (np.exp(log_a) * (log_a - log_b)).sum(axis=-1).ravel()
            agrees[here] = (log_a.argmax(axis=-1) == log_b.argmax(axis=-1)).ravel()
            difference[here] = np.abs(logits_a - logits_b).max(axis=-1).ravel()
            bar.advance(outputs.size)
    columns = _Columns(targets, np.arange(n) // length, nats_a, nats_b, kl, agrees, difference)
    comparison = columns.summary(
        targets.counted,
        {label: columns.summary(chosen) for label, chosen in groups(targets.language, targets.counted)},
        {label: columns.summary(chosen) for label, chosen in groups(targets.source, targets.counted)},
    )
    losses = TokenLosses(
        length=length,
        nats_a=nats_a,
        nats_b=nats_b,
        counted=targets.counted,
        bytes=targets.bytes,
        document=targets.document,
        window=columns.window,
    )
    return comparison, losses


def check_same_vocabulary(a: Tokenizer, b: Tokenizer) -> None:
    """Raise a BulletError that names the first difference, unless every id stands for the same token in both."""
    if a.proto == b.proto:
        return
    if a.vocab_size != b.vocab_size:
        difference = f"the first has {a.vocab_size:,} tokens and the second {b.vocab_size:,}"
    else:
        for i, (piece, other) in enumerate(zip(a.pieces(), b.pieces(), strict=True)):
            if (piece.text, piece.type) != (other.text, other.type):
                difference = f"token {i} is {piece.text!r} in the first and {other.text!r} in the second"
                break
        else:
            return
    raise BulletError(f"the two models have different tokenizers ({difference}): compare models that use the same tokenizer")


@dataclass(frozen=True)
class _Columns:
    """One value per target position, float64[n], and the number of its window, int64[n]."""

    targets: Targets
    window: NDArray[np.int64]
    nats_a: NDArray[np.float64]
    nats_b: NDArray[np.float64]
    kl: NDArray[np.float64]
    agrees: NDArray[np.float64]
    difference: NDArray[np.float64]

    def summary(
        self,
        chosen: NDArray[np.bool_],
        by_language: dict[str, Comparison] | None = None,
        by_source: dict[str, Comparison] | None = None,
    ) -> Comparison:
        window = self.window[chosen]
        bootstrap = Bootstrap(choose_units(self.targets.document[chosen], window))
        return Comparison(
            windows=len(np.unique(window)),
            a=self.targets.score(self.nats_a, chosen),
            b=self.targets.score(self.nats_b, chosen),
            loss_delta=clustered_mean((self.nats_b - self.nats_a)[chosen], window),
            kl=clustered_mean(self.kl[chosen], window),
            top1_agreement=clustered_mean(self.agrees[chosen], window),
            max_logit_difference=float(self.difference[chosen].max()),
            intervals=self._intervals(chosen, bootstrap),
            units=(bootstrap.units.kind, bootstrap.units.count),
            by_language=by_language or {},
            by_source=by_source or {},
        )

    def _intervals(self, chosen: NDArray[np.bool_], bootstrap: Bootstrap) -> dict[str, Interval]:
        a, b, size = self.nats_a[chosen], self.nats_b[chosen], self.targets.bytes[chosen]
        found = {"a_loss": bootstrap.mean(a), "b_loss": bootstrap.mean(b), "loss_delta": bootstrap.mean(b - a)}
        found |= {f"{which}_perplexity": found[f"{which}_loss"].mapped(_exp) for which in "ab"}
        found["perplexity_change"] = found["loss_delta"].mapped(lambda delta: _exp(delta) - 1)
        if size.any():
            bits = {"a_bits_per_byte": a, "b_bits_per_byte": b, "bits_per_byte_change": b - a}
            found |= {name: bootstrap.ratio(nats / math.log(2), size) for name, nats in bits.items()}
        found["kl"] = bootstrap.mean(self.kl[chosen])
        found["top1_agreement"] = bootstrap.mean(self.agrees[chosen])
        return found


def _exp(value: float) -> float:
    """exp, capped like the perplexity."""
    return math.exp(min(value, 700.0))


def clustered_mean(values: NDArray[np.float64], window: NDArray[np.int64]) -> Estimate:
    """Mean of `values`, float64[n], and its standard error if values of the same `window`, int64[n], are not independent.

    The mean is a ratio of two sums over windows, so this is the linearized error of a ratio estimator
    (Cochran, Sampling Techniques, ch. 6): the residual of a window is its sum minus mean times its size.
    """
    mean = float(values.mean())
    _, index = np.unique(window, return_inverse=True)
    residual = np.bincount(index, values - mean)
    k = len(residual)
    se = math.sqrt(float(residual @ residual) * k / (k - 1)) / len(values) if k > 1 else None
    return Estimate(mean, se)

"""Comparisons with the training tokens: the 5-gram baseline, validation text inside the training text, and the training loss."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bulletlm.data.tokens import TokenFile, open_tokens
from bulletlm.evaluate.compare import TokenLosses
from bulletlm.evaluate.contamination import find_contamination
from bulletlm.evaluate.intervals import Bootstrap, Interval, Units, choose_units
from bulletlm.evaluate.ngram import NGram, training_documents
from bulletlm.evaluate.perplexity import finite_logits, log_softmax
from bulletlm.evaluate.report_types import DataChecks, NGramValues, TrainingSample
from bulletlm.progress import Progress
from bulletlm.runtime import Model
from bulletlm.text.tokenizer import BOS

SAMPLE_TOKENS = 4_096
"""Training tokens on which the loss is measured."""

_STREAM = 6


@dataclass(frozen=True, kw_only=True)
class HeldOutLosses:
    """The losses of one model on the validation text; arrays have one entry per target that counts.

    Attributes:
        length: tokens in a window.
        nats: float64, -ln p of the target.
        document, window: int64, number of the document and of the window of the target.
    """

    length: int
    nats: npt.NDArray[np.float64]
    document: npt.NDArray[np.int64]
    window: npt.NDArray[np.int64]


def check_data(tokens_dir: Path, fp32: Model, losses: TokenLosses, seed: int, progress: Progress) -> DataChecks:
    """Compare the models with the training tokens of a run.

    Args:
        tokens_dir: the tokens folder.
        fp32: the model in full precision.
        losses: of both models on the validation tokens.
        seed: decides which part of the training text is read.
        progress: shows the bars.

    Raises:
        BulletError: a token file is damaged, or the model computes NaN.
    """
    train, val = (open_tokens(tokens_dir, split) for split in ("train", "val"))
    if not len(train.tokens):
        return {"ngram": None, "contamination": None, "training_sample": None}
    with progress.task("Comparing with the training text", 2) as bar:
        baseline = compare_with_ngram(train, val, fp32.shape.vocab_size, losses)
        bar.advance(1)
        copied = find_contamination(train.tokens, val.tokens, fp32.tokenizer)
        bar.advance(1)
    held_out = HeldOutLosses(
        length=losses.length,
        nats=losses.nats_a[losses.counted],
        document=losses.document[losses.counted],
        window=losses.window[losses.counted],
    )
    return {"ngram": baseline, "contamination": copied, "training_sample": sample_training_loss(train, fp32, held_out, seed, progress)}


def compare_with_ngram(train: TokenFile, val: TokenFile, vocab_size: int, losses: TokenLosses) -> NGramValues | None:
    """The 5-gram model of the training tokens against the 4-bit model on the validation tokens; None for text without bytes."""
    model = NGram(training_documents(train.tokens, BOS), vocab_size)
    nats = model.nats(val.tokens, losses.length)[losses.counted]
    size = losses.bytes[losses.counted]
    if not size.any():
        return None
    bootstrap = Bootstrap(choose_units(losses.document[losses.counted], losses.window[losses.counted]))
    margin = bootstrap.ratio((losses.nats_b[losses.counted] - nats) / math.log(2), size)
    return {"tokens": model.tokens, "bits_per_byte": float(nats.sum() / math.log(2) / size.sum()), "margin": margin.to_dict()}


def sample_training_loss(train: TokenFile, model: Model, losses: HeldOutLosses, seed: int, progress: Progress) -> TrainingSample | None:
    """The loss of a model on windows from all over the training text, to compare with its loss on the validation text."""
    length = losses.length
    windows = (len(train.tokens) - 1) // length
    wanted = min(windows, max(1, SAMPLE_TOKENS // length))
    if not wanted:
        return None
    chosen = np.sort(np.random.default_rng([seed, _STREAM]).permutation(windows)[:wanted]) * length
    nats, counted = [], []
    with progress.task("Training text", wanted * length) as bar:
        for start in chosen.tolist():
            ids = np.asarray(train.tokens[start : start + length + 1], dtype=np.int64)
            log_p = log_softmax(finite_logits(model.engine, ids[None, :-1], "the first model"))[0]
            nats.append(-np.take_along_axis(log_p, ids[1:, None], -1)[:, 0])
            counted.append(np.ones(length, bool) if train.learn is None else np.asarray(train.learn[start + 1 : start + length + 1]) != 0)
            bar.advance(length)
    mask = np.concatenate(counted)
    if not mask.any():
        return None
    window = np.repeat(np.arange(wanted), length)[mask]
    _, index = np.unique(window, return_inverse=True)
    own = Bootstrap(Units(index.astype(np.int64), int(index.max()) + 1, "blocks of windows")).mean(np.concatenate(nats)[mask])
    held_out = Bootstrap(choose_units(losses.document, losses.window)).mean(losses.nats)
    return {"tokens": int(mask.sum()), "loss": own.value, "gap": _difference(held_out, own).to_dict()}


def _difference(a: Interval, b: Interval) -> Interval:
    """a - b of two independent samples."""
    value = a.value - b.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Interval(value)
    return Interval(value, value - math.hypot(a.value - a.low, b.high - b.value), value + math.hypot(a.high - a.value, b.value - b.low))

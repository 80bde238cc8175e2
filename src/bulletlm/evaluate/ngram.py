"""A 5-gram model of the training tokens: the baseline that a useful language model must beat in bits per byte.

Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998), over the tokens of the run's own tokenizer, so that both models
predict the same targets. numpy only; KenLM, the usual library, has no wheels and needs a compiler.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ORDER = 5
MOST_TOKENS = 4_000_000
"""Of a longer training text, documents from all over it are counted. More would make the baseline stronger, but the report slower."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length n.

    Attributes:
        keys: int64[count], ascending: number of the first n - 1 tokens (as an (n-1)-gram) * vocab_size + last token.
        discounted: float64[count], the count minus its discount.
        total: float64[contexts], sum of the counts after each context.
        rest: float64[contexts], probability that is left for the shorter context.
    """

    keys: Ints
    discounted: Floats
    total: Floats
    rest: Floats


class NGram:
    """An n-gram model of order ORDER.

    Args:
        tokens: training tokens, integers [n] with n >= 1.
        vocab_size: number of tokens in the vocabulary.
    """

    def __init__(self, tokens: npt.NDArray[np.integer[Any]], vocab_size: int) -> None:
        self.vocab_size, self.tokens = vocab_size, len(tokens)
        ids = np.asarray(tokens, dtype=np.int64)
        grams: list[tuple[Ints, Ints, Ints]] = []  # keys, number of the n-gram that ends at each place, first place of each n-gram
        before: Ints = np.zeros(len(ids) + 1, dtype=np.int64)
        for n in range(1, ORDER + 1):
            if len(ids) < n:
                break
            keys = before[: len(ids) - n + 1] * vocab_size + ids[n - 1 :]
            unique, first, number = np.unique(keys, return_index=True, return_inverse=True)
            grams.append((unique, number.astype(np.int64), first.astype(np.int64)))
            before = number.astype(np.int64)
        self._orders: list[_Order] = []
        contexts = 1
        for n, (keys, number, _) in enumerate(grams):
            if n + 1 < len(grams):
                # The shorter orders count in how many contexts an n-gram occurs, not how often: its places are where longer ones end.
                counts = np.bincount(number[grams[n + 1][2] + 1], minlength=len(keys))
            else:
                counts = np.bincount(number, minlength=len(keys))
            self._orders.append(_smoothed(keys, counts, contexts, vocab_size))
            contexts = len(keys)

    def nats(self, tokens: npt.NDArray[np.integer[Any]], window: int) -> Floats:
        """-ln p of every token except the first, float64[n - 1].

        Args:
            tokens: text to predict, integers [n].
            window: tokens before the beginning of a token's window of this length are not used, as in `perplexity.score`.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        available = np.arange(len(ids) - 1) % window + 1
        probability: Floats = np.full(len(ids), 1 / self.vocab_size)
        context: Ints = np.zeros(len(ids), dtype=np.int64)  # number of the context of n - 1 tokens before each place; -1: not seen
        for n, order in enumerate(self._orders):
            seen = context >= 0
            if n:
                seen[1:] &= available >= n
                seen[0] = False
            seen &= order.total[np.maximum(context, 0)] > 0
            keys = np.maximum(context, 0) * self.vocab_size + ids
            at = np.minimum(np.searchsorted(order.keys, keys), len(order.keys) - 1)
            found = order.keys[at] == keys
            total = np.where(seen, order.total[np.maximum(context, 0)], 1)
            longer = np.where(found, order.discounted[at], 0) / total + order.rest[np.maximum(context, 0)] * probability
            probability = np.where(seen, longer, probability)
            number = np.where(found & (context >= 0), at, -1)
            context = np.concatenate([[-1], number[:-1]])
        return -np.log(probability[1:])


def _smoothed(keys: Ints, counts: Ints, contexts: int, vocab_size: int) -> _Order:
    """Discounts of Chen and Goodman, from how many n-grams occur once, twice, three and four times."""
    n = [int(np.count_nonzero(counts == times)) for times in range(1, 5)]
    discount = np.zeros(4)
    if all(n):
        share = n[0] / (n[0] + 2 * n[1])
        discount[1:] = [times - (times + 1) * share * n[times] / n[times - 1] for times in (1, 2, 3)]
    else:  # a text too small or too uniform for the estimate
        discount[1:] = (0.5, 0.75, 0.75)
    discount[1:] = np.clip(discount[1:], 0.05, (0.95, 1.9, 2.85))
    kind = np.minimum(counts, 3)
    context = keys // vocab_size
    taken = discount[kind]
    total: Floats = np.bincount(context, counts, contexts).astype(np.float64)
    left = np.bincount(context, np.where(counts > 0, taken, 0), contexts)
    return _Order(keys, np.maximum(counts - taken, 0).astype(np.float64), total, left / np.maximum(total, 1e-300))


def training_documents(tokens: npt.NDArray[np.integer[Any]], start_token: int, most: int = MOST_TOKENS) -> npt.NDArray[np.integer[Any]]:
    """The tokens of all different documents of a stream, or of every n-th document if that is more than `most` tokens.

    A mixture may repeat documents, and Kneser-Ney smoothing must not take repeated text for frequent text.

    Args:
        tokens: integers [n].
        start_token: token at the beginning of every document.
        most: tokens at most.
    """
    step = max(1, -(-len(tokens) // most))
    starts = np.flatnonzero(np.asarray(tokens) == start_token)
    if not len(starts):
        return np.asarray(tokens[:most])
    ends = np.append(starts[1:], len(tokens))
    kept: dict[bytes, None] = {}
    for start, end in zip(starts[::step].tolist(), ends[::step].tolist(), strict=True):
        kept.setdefault(np.asarray(tokens[start:end]).tobytes())
    return np.frombuffer(b"".join(kept), dtype=tokens.dtype)

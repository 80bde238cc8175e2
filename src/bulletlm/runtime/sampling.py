"""Chooses the next token from the logits.

numpy is imported where it is needed: the native engine chooses tokens itself and only needs the settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bulletlm.errors import BulletError, ConfigError
from bulletlm.sampling_limits import PENALTY_WINDOW, SAMPLING_LIMITS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Sampling:
    """The settings of text generation.

    Attributes:
        temperature: 0 always takes the likeliest token; higher is more varied.
        top_k: keep only the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens that together reach this probability (Holtzman et al. 2019, arXiv:1904.09751).
        min_p: drop tokens less likely than this share of the likeliest one (Nguyen et al. 2024, arXiv:2407.01082).
        repetition_penalty: above 1 makes recent tokens less likely (Keskar et al. 2019, arXiv:1909.05858).
        presence_penalty: subtracted from the logits of recent tokens, once each, as in OpenAI's API; below 0 makes them more likely.
        frequency_penalty: subtracted from the logits of recent tokens as often as they occur, as in OpenAI's API.
        logit_bias: token id -> number added to its logit before everything else; minus infinity forbids it.
        max_tokens: largest number of generated tokens.
        seed: the same seed gives the same text.
        whole_letters: never choose a token that begins with a Devanagari sign where it cannot belong to a letter, for example a
            vowel sign after a space.

    Raises:
        ConfigError: a value is out of its range.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.1
    max_tokens: int = 96
    seed: int = 0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    whole_letters: bool = False
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name, (kind, low, high) in SAMPLING_LIMITS.items():
            value = getattr(self, name)
            if (kind is int and type(value) is not int) or not low <= value <= high:
                limits = f"a whole number from {low:,} to {high:,}" if kind is int else f"from {low:g} to {high:g}"
                raise ConfigError(f"{name} is {value}: it must be {limits}")
        if type(self.seed) is not int or self.seed < 0:
            raise ConfigError(f"seed is {self.seed}: it must be a whole number, 0 or more")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be from -2 to 2")
        for token, bias in self.logit_bias.items():
            if type(token) is not int or token < 0 or not bias < math.inf:
                raise ConfigError(f"logit_bias has {token}: {bias}: it must be a token id and a number")


class LetterRules(NamedTuple):
    """Rules for the positions of tokens, so that every Devanagari sign belongs to a letter; the bits are those of text.akshara.

    Attributes:
        after: for each token, what it must come after (a set of bits); 0 for anything. uint8[vocab_size].
        ends: for each token, what it ends in. uint8[vocab_size].
        before: what the text so far ends in.
    """

    after: bytes
    ends: bytes
    before: int


def sample(logits: npt.NDArray[np.float32], history: Sequence[int], sampling: Sampling, rng: np.random.Generator) -> int:
    """Draw one token.

    In this order: logit bias, repetition penalty, presence and frequency penalty, top_k, top_p, min_p (both on the probabilities of what
    top_k left, at temperature 1), temperature, draw. Tokens of equal logits count as ordered by their ids.
    At least one token always remains.

    `whole_letters` is not applied here, since it depends on the text of the tokens (see text.akshara).

    Args:
        logits: float32[vocab_size].
        history: the earlier tokens; the last 64 are penalized.
        sampling: the settings.
        rng: used once, and not at temperature 0.

    Raises:
        BulletError: the logits are not finite, so the weights must be damaged; or logit_bias has a token id outside the vocabulary.
    """
    import numpy as np

    wide = biased(logits, sampling).astype(np.float64)
    if len(history):
        recent, counts = np.unique(history[-PENALTY_WINDOW:], return_counts=True)
        seen = wide[recent]
        seen = np.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
        wide[recent] = seen - sampling.presence_penalty - sampling.frequency_penalty * counts
    best = int(wide.argmax())
    if not np.isfinite(wide[best]):
        raise BulletError("the model's output is not a number: its weights are damaged; run `bullet verify` on the file")
    if sampling.temperature == 0:
        return best

    tokens = _likeliest(wide, sampling.top_k)
    relative = wide[tokens] - wide[best]
    likelihood = np.exp(relative)  # of the best: 1
    keep = int(np.count_nonzero(likelihood >= sampling.min_p))
    if sampling.top_p < 1:
        reached = np.cumsum(likelihood)
        keep = min(keep, int(np.searchsorted(reached, sampling.top_p * reached[-1])) + 1)

    with np.errstate(over="ignore"):
        reached = np.cumsum(np.exp(relative[:keep] / sampling.temperature))
    drawn = int(np.searchsorted(reached, rng.random() * reached[-1], side="right"))
    return int(tokens[min(drawn, keep - 1)])


def biased(logits: npt.NDArray[np.float32], sampling: Sampling) -> npt.NDArray[np.float32]:
    """The logits with `logit_bias` added, float32[vocab_size]; the same array if there is none.

    Raises:
        BulletError: logit_bias names a token outside the vocabulary.
    """
    if not sampling.logit_bias:
        return logits
    highest = max(sampling.logit_bias)
    if highest >= len(logits):
        raise BulletError(f"logit_bias names token {highest}, but the vocabulary ends at {len(logits) - 1}")
    out = logits.copy()
    for token, bias in sampling.logit_bias.items():
        out[token] += bias
    return out


def _likeliest(logits: npt.NDArray[np.float64], top_k: int) -> npt.NDArray[np.intp]:
    """The ids of the `top_k` (0: all) highest logits, highest first, equals by id."""
    import numpy as np

    if not 0 < top_k < len(logits):
        return np.argsort(-logits, kind="stable")
    threshold = np.partition(logits, -top_k)[-top_k]
    candidates = np.flatnonzero(logits >= threshold)
    return candidates[np.argsort(-logits[candidates], kind="stable")][:top_k]

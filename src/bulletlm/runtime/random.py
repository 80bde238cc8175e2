"""Computes the state of numpy's default random generator, PCG64, for a seed without numpy.

Importing numpy takes longer than generating a short answer. Tests compare the state with numpy's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

State = tuple[int, int]
"""State and increment of the generator, 128 bits each."""

_MASK32, _MASK128 = (1 << 32) - 1, (1 << 128) - 1
_MULTIPLIER = 2549297995355413924 << 64 | 4865540595714422341


def state_of(generator: np.random.Generator) -> State:
    """The state of a PCG64 generator."""
    state = generator.bit_generator.state["state"]
    return state["state"], state["inc"]


def seeded(seeds: Sequence[int]) -> State:
    """The state of `numpy.random.default_rng(seeds)`, for whole numbers from 0."""
    words = _generated(_pool([word for seed in seeds for word in _words(seed)]))
    a, b, c, d = (low | high << 32 for low, high in zip(words, words, strict=True))
    step = ((c << 64 | d) << 1 | 1) & _MASK128
    return (((a << 64 | b) + step) * _MULTIPLIER + step) & _MASK128, step


def _words(number: int) -> list[int]:
    return [number >> at & _MASK32 for at in range(0, max(number.bit_length(), 1), 32)]


def _pool(words: list[int]) -> list[int]:
    """numpy's SeedSequence (after O'Neill's seed_seq_fe): any number of words, mixed into four."""
    constant = 0x43B0D7E5

    def hashed(word: int) -> int:
        nonlocal constant
        word ^= constant
        constant = constant * 0x931E8875 & _MASK32
        word = word * constant & _MASK32
        return word ^ word >> 16

    def mixed(a: int, b: int) -> int:
        word = (0xCA01F9DD * a - 0x4973F715 * b) & _MASK32
        return word ^ word >> 16

    pool = [hashed(word) for word in (words + [0] * 4)[:4]]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in words[4:]:
        for target in range(4):
            pool[target] = mixed(pool[target], hashed(word))
    return pool


def _generated(pool: list[int]) -> Iterator[int]:
    """Eight words."""
    constant = 0x8B51F9DD
    for word in pool * 2:
        word ^= constant
        constant = constant * 0x58F38DED & _MASK32
        word = word * constant & _MASK32
        yield word ^ word >> 16

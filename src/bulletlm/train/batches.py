"""Which tokens are in which batch. It is a pure function of seed and step, so that a checkpoint needs no reading position."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bulletlm.data.tokens import TokenFile
from bulletlm.errors import DataError
from bulletlm.train.model import IGNORE


class TrainingWindows:
    """Sequences of `length` inputs, in a new random order and with a new offset every epoch.

    Args:
        file: the training tokens.
        length: context length L; a window is L input tokens and, as targets, the L tokens that follow them.
        seed: decides offsets and order.

    Attributes:
        count: windows in one epoch.

    Raises:
        DataError: the text is shorter than one window plus the largest offset, which is 2 L tokens.
    """

    def __init__(self, file: TokenFile, length: int, seed: int) -> None:
        self.count = (len(file.tokens) - length) // length
        if self.count < 1:
            raise DataError(
                f"the training set has {len(file.tokens):,} tokens, which is less than two windows of {length}: "
                "add text or lower max_seq_len"
            )
        self._file, self._length, self._seed = file, length, seed
        self._epoch = -1
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Windows number first ... first + size - 1, counted over all epochs: tokens and targets, both int64 (size, L)."""
        pairs = [self._window(n) for n in range(first, first + size)]
        return torch.from_numpy(np.stack([x for x, _ in pairs])), torch.from_numpy(np.stack([y for _, y in pairs]))

    def _window(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        epoch, index = divmod(number, self.count)
        if epoch != self._epoch:
            random = np.random.default_rng([self._seed, 1, epoch])
            self._starts = random.integers(self._length) + self._length * random.permutation(self.count)
            self._epoch = epoch
        return window(self._file, int(self._starts[index]), self._length)


def window(file: TokenFile, start: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Up to `length` input tokens from position `start` and their targets, both int64 (n,); targets that do not count are IGNORE."""
    stop = min(start + length, len(file.tokens) - 1)
    tokens = file.tokens[start:stop].astype(np.int64)
    targets = file.tokens[start + 1 : stop + 1].astype(np.int64)
    if file.learn is not None:
        targets[file.learn[start + 1 : stop + 1] == 0] = IGNORE
    return tokens, targets


def validation_batches(file: TokenFile, length: int, size: int, part: int = 0, parts: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole file once, in order, in windows of `length` tokens. The last window is filled up with targets IGNORE.

    Args:
        file: the tokens.
        length: tokens in a window.
        size: windows in a batch.
        part, parts: yield only batches part, part + parts, part + 2 parts, ...

    Yields:
        tokens and targets, both int64 (windows, length); the last batch may have fewer windows than `size`.
    """
    for first in range(part * length * size, len(file.tokens) - 1, parts * length * size):
        starts = range(first, min(first + length * size, len(file.tokens) - 1), length)
        tokens = np.zeros((len(starts), length), np.int64)
        targets = np.full((len(starts), length), IGNORE, np.int64)
        for row, start in enumerate(starts):
            x, y = window(file, start, length)
            tokens[row, : len(x)], targets[row, : len(y)] = x, y
        yield torch.from_numpy(tokens), torch.from_numpy(targets)

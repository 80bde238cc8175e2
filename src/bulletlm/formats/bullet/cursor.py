"""Reads untrusted binary files: it never reads past the end, and checks every length before using it."""

import mmap
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from bulletlm.errors import FormatError


class Cursor:
    """A position in a mapped file that moves forward. `what` names the value that is read, for error messages.

    Raises (every method):
        FormatError: the file ends before it.
    """

    def __init__(self, data: mmap.mmap, at: int = 0) -> None:
        self.data, self.at = data, at

    def bytes(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        start = self._advance(count, what)
        return self.data[start : self.at]

    def view(self, count: int, what: str) -> npt.NDArray[np.uint8]:
        """The next `count` bytes without a copy, read-only."""
        return np.frombuffer(self.data, np.uint8, count, self._advance(count, what))

    def numbers(self, format: str, what: str) -> tuple[Any, ...]:
        """Numbers by a format of the struct module."""
        return struct.unpack(format, self.bytes(struct.calcsize(format), what))

    def number(self, format: str, what: str) -> Any:
        """One number."""
        return self.numbers(format, what)[0]

    def align(self, alignment: int, what: str) -> None:
        """Go to the next multiple of `alignment`."""
        self._advance(-self.at % alignment, what)

    def _advance(self, count: int, what: str) -> int:
        start = self.at
        if not 0 <= count <= len(self.data) - start:
            raise FormatError(f"the file is cut short or damaged: {what} at byte {start} goes past its end")
        self.at = start + count
        return start

"""Reads text files line by line, in blocks of about a megabyte that can be sent to other processes.

Memory use is bounded for files and lines of any size. Where a block ends depends only on the file, so the result does not
depend on the process that reads it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from bulletlm.data.readers.opened import DAMAGE, pieces
from bulletlm.data.readers.raw import BadRow, Block, Listener
from bulletlm.data.sources import SourceFile

BLOCK_BYTES = 1 << 20

LINE_BYTES = 16 << 20
"""A longer line is not natural text; it is rejected without reading all of it into memory."""

_SHOWN_BYTES = 2_000
_SENTENCE_LINE = re.compile(rb"(?:[.!?]|\xe0\xa5[\xa4\xa5]|\xe2\x80\xa6|\xe3\x80\x82)[\"')\]]{0,3}\n")


def line_blocks(
    file: SourceFile,
    encoding: str,
    listener: Listener,
    *,
    border: bytes | Callable[[bytes], int] = b"\n",
    plan: Any = None,
    kind: str = "",
) -> Iterator[Block | BadRow]:
    """Read blocks of complete lines of a file with \\n, \\r\\n or \\r line ends.

    Args:
        border: blocks end after the last of these bytes, for example an empty line, or where this function says (0: nowhere). Where there
            is no border in two blocks, a block ends at an empty line, or else after a line that ends like a sentence.
    """
    number, rest, skipping = 1, b"", False
    stream = pieces(file, encoding, listener.advance)
    while True:
        try:
            piece = next(stream, None)
        except DAMAGE:
            end = rest.rfind(b"\n") + 1
            if end:  # the rest is the beginning of a line that is lost
                yield _block(file, number, rest[:end], plan, kind)
            raise
        if piece is None:
            break
        if skipping:
            end = piece.find(b"\n") + 1
            if not end:
                continue
            piece, number, skipping = piece[end:], number + 1, False
        rest += piece
        if len(rest) < BLOCK_BYTES:
            continue
        end = _end(rest, border) or (_any_end(rest) if len(rest) >= 2 * BLOCK_BYTES else 0)
        if end:
            yield (block := _block(file, number, rest[:end], plan, kind))
            number = block.last + 1
            rest = rest[end:]
        elif len(rest) > LINE_BYTES:
            yield endless(file, number, rest)
            rest, skipping = b"", True
    if rest:
        yield _block(file, number, rest, plan, kind)


def _end(data: bytes, border: bytes | Callable[[bytes], int]) -> int:
    """The position after the last border; 0 if there is none."""
    if callable(border):
        return border(data)
    at = data.rfind(border)
    return at + len(border) if at >= 0 else 0


def _any_end(data: bytes) -> int:
    """The position after the last empty line, the last line that ends like a sentence, or else the last line; 0 if there is no line end."""
    if end := _end(data, b"\n\n"):
        return end
    sentences = [found.end() for found in _SENTENCE_LINE.finditer(data, max(len(data) - BLOCK_BYTES, 0))]
    return sentences[-1] if sentences else _end(data, b"\n")


def lines_of(block: Block) -> Iterator[tuple[int, str] | BadRow]:
    """The numbered lines of a block without their line ends."""
    for number, line in enumerate(block.data.removesuffix(b"\n").split(b"\n"), block.first):
        if len(line) > LINE_BYTES:
            yield endless(block.file, number, line)
            continue
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError:
            yield BadRow(block.file.name, number, "invalid_utf8", line.decode("utf-8", errors="replace"))


def _block(file: SourceFile, first: int, data: bytes, plan: Any, kind: str) -> Block:
    return Block(file, first, first + data.count(b"\n") - data.endswith(b"\n"), data, plan, kind)


def endless(file: SourceFile, number: int, line: bytes) -> BadRow:
    """The rejected row for a line that is too long, with the beginning of the line."""
    return BadRow(file.name, number, "longer_than_16_MB", line[:_SHOWN_BYTES].decode("utf-8", "replace").rstrip("\ufffd"))

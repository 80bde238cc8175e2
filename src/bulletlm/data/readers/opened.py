"""Opens a file for reading: decompression, members of a .zip, encoding detection, and the limit on decompressed size."""

import bz2
import codecs
import gzip
import lzma
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, cast

from bulletlm.data.code_pages import is_iscii, marked_encoding, old_encoding, wide_encoding
from bulletlm.data.encodings import LEGACY_FONT, is_legacy_file
from bulletlm.data.readers.raw import NotReadError
from bulletlm.data.sources import SourceFile
from bulletlm.files import open_regular

PIECE_BYTES = 1 << 16
"""Bytes read at a time."""

LOOK_AT_BYTES = 1 << 18
"""Number of bytes at the beginning of a file that determine its type."""

SCANNED_BYTES = 64 << 20
"""Number of decompressed bytes that are examined to detect the encoding."""

FREE_BYTES = 16 << 20
LARGEST_RATIO = 100
"""A compressed file may expand to `FREE_BYTES` plus this many times its size; natural text compresses by a factor of 3 to 10."""

DAMAGE = (NotReadError, EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, NotImplementedError)
"""Exceptions that a compressed or unreadable file raises; gzip.BadGzipFile is an OSError."""

_FEW_LINES = 0.1
"""If fewer lines than this share are neither UTF-8 nor in a known code page, they are rejected one by one."""

_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))


def explain(error: Exception) -> str:
    """Describe the fault of a file as a phrase without a full stop."""
    if isinstance(error, NotReadError):
        return str(error)
    if isinstance(error, EOFError):
        return "the compressed file is truncated"
    if isinstance(error, (gzip.BadGzipFile, lzma.LZMAError, zlib.error, zipfile.BadZipFile)):
        return f"the compressed file is damaged ({one_line(error)})"
    if isinstance(error, NotImplementedError):
        return f"the compressed file uses a method that is not supported ({one_line(error)})"
    return f"cannot be read ({getattr(error, 'strerror', None) or one_line(error)})"


def one_line(error: Exception) -> str:
    """A library's error message in one line, without control characters that must not reach a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())[:100].rstrip(" .:")


class _Bounded:
    """Decompressed bytes of a file; raises an error if a compressed file expands far more than text can."""

    def __init__(self, raw: IO[bytes], packed: bool, size: int, position: Callable[[], int]) -> None:
        self._raw = raw
        self._left = FREE_BYTES + LARGEST_RATIO * size if packed else -1
        self.position = position

    def read1(self, size: int) -> bytes:
        # read1 returns the data before the point where a compressed file is truncated; read would discard it.
        piece = self._raw.read1(size)  # type: ignore[attr-defined]
        if self._left >= 0:
            self._left -= len(piece)
            if self._left < 0:
                raise NotReadError(f"the compressed file expands to more than {LARGEST_RATIO} times its size, which text does not")
        return cast(bytes, piece)


@contextmanager
def open_unpacked(file: SourceFile) -> Iterator[_Bounded]:
    """Open a file or a member of a .zip and decompress it."""
    with open_regular(file.path) as outer:
        if not file.member:
            with _unpacked(outer, file.path.suffix.lower()) as text:
                packed = text is not outer
                yield _Bounded(text, packed, os.fstat(outer.fileno()).st_size, outer.tell)
            return
        with zipfile.ZipFile(outer) as archive:
            entry = archive.getinfo(file.member)
            if entry.flag_bits & 1:
                raise NotReadError("it is protected by a password: unpack it first")
            with archive.open(entry) as inner:
                text = _unpacked(inner, PurePosixPath(file.member).suffix.lower())
                yield _Bounded(text, True, entry.compress_size, lambda: 0)


def _unpacked(packed: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
    if suffix == ".xz":
        return cast(IO[bytes], lzma.LZMAFile(packed))
    if suffix == ".bz2":
        return cast(IO[bytes], bz2.BZ2File(packed))
    return packed


def read_whole(file: SourceFile, limit: int) -> bytes:
    """Read all bytes of a file.

    Raises:
        NotReadError: there are more than `limit`.
    """
    with open_unpacked(file) as opened:
        return b"".join(at_most(limit, iter(lambda: opened.read1(1 << 20), b"")))


def at_most(limit: int, parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts of a file, as long as they have at most `limit` bytes together.

    Raises:
        NotReadError: there are more.
    """
    size = 0
    for part in parts:
        size += len(part)
        if size > limit:
            raise NotReadError(f"it is larger than {limit >> 20} MB, the limit for this file type: split it")
        yield part


def beginning_of(file: SourceFile, size: int = LOOK_AT_BYTES) -> bytes:
    """The first bytes of a file; fewer where it is shorter or damaged."""
    parts, left = [], size
    try:
        with open_unpacked(file) as opened:
            while left > 0 and (piece := opened.read1(min(left, PIECE_BYTES))):
                parts.append(piece)
                left -= len(piece)
    except DAMAGE:
        if not parts:
            raise
    return b"".join(parts)


def find_encoding(file: SourceFile) -> str:
    """The codec of a text file.

    UTF-8, unless most lines with non-ASCII characters are in another encoding; a few damaged lines do not change the result.

    Raises:
        NotReadError: the file is not text, or its encoding cannot be detected with certainty.
    """
    first = beginning_of(file, PIECE_BYTES)
    marked = marked_encoding(first)
    if marked:
        return marked
    wide = wide_encoding(first)
    if wide:
        return wide
    if len(first.translate(None, _CONTROL_BYTES)) < 0.99 * len(first):
        raise NotReadError("this is a binary file, not text")
    lines, good, bad, sample = _scan(file)
    if bad <= good:
        return "utf-8"
    page = old_encoding(sample)
    if page is None and bad < _FEW_LINES * lines:
        return "utf-8"  # those lines are rejected one by one
    if page is None and is_iscii(sample):
        raise NotReadError("the text is in ISCII, a legacy 8-bit encoding: convert it with `uconv -f iscii-dev -t utf-8`")
    if page is None and is_legacy_file(first.decode("cp1252", "replace").splitlines()):
        raise NotReadError(LEGACY_FONT)
    if page is None:
        raise NotReadError("the text is not UTF-8, and its encoding cannot be detected with certainty: save it as UTF-8")
    return page


def _scan(file: SourceFile) -> tuple[int, int, int, bytes]:
    """Count lines, non-ASCII lines that are UTF-8, and lines that are not UTF-8; also return the first of the latter."""
    counts, sample, scanned, rest = Counter[str](), bytearray(), 0, b""
    try:
        with open_unpacked(file) as opened:
            while scanned < SCANNED_BYTES and (piece := opened.read1(PIECE_BYTES)):
                scanned += len(piece)
                rest += piece
                end = rest.rfind(b"\n") + 1
                if not end and len(rest) < LOOK_AT_BYTES:
                    continue
                end = end or whole_characters(rest)  # a line of megabytes is counted in parts
                _count(rest[:end], counts, sample)
                rest = rest[end:]
    except DAMAGE:
        pass  # reported when the text itself is read
    _count(rest, counts, sample)
    return counts["lines"], counts["good"], counts["bad"], bytes(sample)


def whole_characters(text: bytes) -> int:
    """The number of bytes of `text` without a character of UTF-8 that is cut off at the end."""
    for back in range(1, min(len(text), 3) + 1):
        byte = text[-back]
        if byte & 0xC0 != 0x80:
            needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(text) - back if needed > back else len(text)
    return len(text)


def _count(lines: bytes, counts: Counter[str], sample: bytearray) -> None:
    counts["lines"] += lines.count(b"\n") or lines.count(b"\r") or bool(lines)
    if lines.isascii():
        return
    for line in lines.replace(b"\r", b"\n").split(b"\n"):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            counts["good"] += 1
        except UnicodeDecodeError:
            counts["bad"] += 1
            if len(sample) < PIECE_BYTES:
                sample += line + b"\n"


def pieces(file: SourceFile, encoding: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Read the text of a file piece by piece, as UTF-8 with \\n line ends."""
    done, held = 0, b""
    decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)("replace")
    with open_unpacked(file) as opened:
        while piece := opened.read1(PIECE_BYTES):
            position = opened.position()
            advance(position - done)
            done = position
            if decoder:
                piece = decoder.decode(piece).encode("utf-8", "surrogatepass")
            piece, held = held + piece, b""
            if piece.endswith(b"\r"):
                piece, held = piece[:-1], b"\r"
            yield piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in piece else piece
        if decoder:
            yield decoder.decode(b"", True).encode()
        if held:
            yield b"\n"


def beginning_as_text(file: SourceFile, encoding: str, size: int = LOOK_AT_BYTES) -> str:
    """The first part of a text file with \\n line ends; complete lines if it has lines."""
    text = beginning_of(file, size).decode(encoding, "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    end = text.rfind("\n") + 1
    return text[:end] if end and len(text) >= size // 4 else text
